#!/usr/bin/env bash
# All that a GPU is needed for, in parts of which each ends within 9 minutes; they add to one JSON file.
#
# usage: benchmarks/on_gpu.sh PART OUT.json      PART: examples, suite-1 ... suite-4, models-1 ... models-3, latency-1 ... latency-7, rungs,
#                         autotune-1 ... autotune-4, sizes, and under compute-sanitizer memcheck-1 ... -4, racecheck-1 ... -4, initcheck-1 ... -4; table
set -euo pipefail
cd "$(dirname "$0")"
part=$1 out=$2
number=${part##*-}
sanitize() {  # a process a core: each takes long to begin
  compute-sanitizer --target-processes all --tool "$1" --error-exitcode 3 \
    python on_gpu.py examples --jobs "$jobs" --pieces 1 --part "$number/4" --json "$out.$part"
}
latency() { python on_gpu.py latency --json "$out" --folder "$out.exports" "$@"; }
jobs=$(nproc)
mkdir -p "$out.exports"
case $part in
  examples) python on_gpu.py examples --jobs "$jobs" --json "$out" ;;
  suite-*) python backend_score.py --device CUDA --jobs 8 --part "$number/4" --json "$out.suite" --again "$out.suite" --fails ;;
  models-1) python real_models.py --target cuda --max-mb 4 --json "$out.models-1" ;;
  models-2) python real_models.py --target cuda --min-mb 4 --max-mb 16 --json "$out.models-2" ;;
  models-3) python real_models.py --target cuda --min-mb 16 --max-mb 40 --json "$out.models-3" ;;
  memcheck-* | racecheck-* | initcheck-*) sanitize "${part%-*}" ;;
  latency-1) latency --tune --rung libraries mlp64 resnet18 resnet50 mobilenetv2 ;;
  latency-2) latency --tune --rung libraries mobilenetv3_small efficientnet_b0 convnext_tiny vit_b16 ;;
  latency-3) latency --tune --rung libraries unet yolov8n bert_base distilbert ;;
  latency-4) latency --tune --rung libraries gpt2 gpt2_kv whisper_enc whisper_dec t5_enc t5_dec ;;
  latency-5) latency --tune --rung libraries --batch 32 resnet50 bert_base vit_b16 ;;
  latency-6) latency --precision fp32 resnet50 bert_base && latency --precision tf32 resnet50 bert_base ;;
  latency-7) latency --precision int8 --tune --torch "" resnet18 resnet50 mobilenetv2 && latency --precision int8 --rung scalar --torch "" resnet50 ;;
  rungs) latency resnet50 bert_base mobilenetv2 vit_b16 && latency --rung libraries resnet50 bert_base mobilenetv2 vit_b16 ;;
  autotune-1) latency --tune --rung libraries --torch max-autotune,graph resnet50 ;;
  autotune-2) latency --tune --rung libraries --torch max-autotune,graph mobilenetv2 ;;
  autotune-3) latency --tune --rung libraries --torch max-autotune,graph vit_b16 ;;
  autotune-4) latency --tune --rung libraries --torch max-autotune bert_base ;;
  sizes)
    python export.py --folder "$out.exports" bert_base_dyn
    python sizes.py "$out.exports/bert_base_dyn.onnx" --dim seq=100:200 --target cuda --precision fp16 --json "$out.sizes"
    ;;
  table) python on_gpu.py table --json "$out" --markdown ../docs/cuda_speed.md ;;
  *) echo "there is no part $part" >&2; exit 2 ;;
esac
