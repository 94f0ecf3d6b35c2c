#!/usr/bin/env bash
# An aarch64 Python under user-mode emulation, with what graphmill needs: aarch64.sh FOLDER sets it up, FOLDER/usr/bin/python runs it.
# On Debian 12 with qemu-user-static, dpkg, unzip and pip; no root is needed, nothing outside of FOLDER is written.
set -euo pipefail
root=$(realpath -m "$1") here=$(realpath "$(dirname "$0")/..") python=3.11
libraries="libc6 libgcc-s1 libstdc++6 libcrypt1 zlib1g libffi8 libexpat1 libbz2-1.0 liblzma5 libsqlite3-0 libssl3 libuuid1 libdb5.3"
wheels="numpy>=2.1 llvmlite>=0.47 onnx==1.23.2 ml_dtypes>=0.5.3 click rich platformdirs pytest hypothesis onnxruntime>=1.20 pillow"
packages=$root/usr/lib/python3/dist-packages
mkdir -p "$packages" "$root/proc" "$root/tmp/lists/partial" "$root/tmp/wheels"

options="-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$root/tmp/lists -o Dir::Cache=$root/tmp"
apt-get $options update
(cd "$root/tmp" && apt-get $options download $libraries python$python-minimal libpython$python-minimal libpython$python-stdlib)
for package in "$root"/tmp/*.deb; do dpkg -x "$package" "$root"; done

platforms=$(printf -- '--platform manylinux_2_%s_aarch64 ' 17 24 26 27 28 31 34)
python3 -m pip download -q -d "$root/tmp/wheels" --only-binary=:all: --python-version $python $platforms $wheels
for wheel in "$root"/tmp/wheels/*.whl; do unzip -qo "$wheel" -d "$packages"; done
ln -sfn "$here" "$packages/graphmill"
rm -r "$root/tmp"

# Emulation shows the host's CPU; LLVM and graphmill look here. A Neoverse N1: servers and single-board machines since 2019.
cat > "$root/proc/cpuinfo" <<'END'
processor	: 0
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
END
cat > "$root/usr/bin/python" <<END
#!/bin/sh
exec qemu-aarch64-static -0 $root/usr/bin/python -L $root $root/usr/bin/python$python "\$@"
END
chmod +x "$root/usr/bin/python"
