#!/usr/bin/env bash
# All that a GPU is needed for, in parts of which each ends within 9 minutes; they add to one JSON file.
#
# usage: benchmarks/on_gpu.sh PART OUT.json      PART: examples-1 ... examples-3, suite-1 ... suite-4, models-1 ... models-3, memcheck,
#                                              racecheck, initcheck, latency-1 ... latency-6, autotune-1 ... autotune-3, table
set -euo pipefail
cd "$(dirname "$0")"
part=$1 out=$2
number=${part##*-}
sanitize() { compute-sanitizer --tool "$1" --error-exitcode 3 python on_gpu.py examples --part 1/1 --json "$out"; }
case $part in
  examples-*) python on_gpu.py examples --part "$number/3" --json "$out" ;;
  suite-*) python backend_score.py --device CUDA --jobs 8 --part "$number/4" --json "$out.suite" --again "$out.suite" --fails ;;
  models-1) python real_models.py --target cuda --max-mb 4 --json "$out.models-1" ;;
  models-2) python real_models.py --target cuda --min-mb 4 --max-mb 16 --json "$out.models-2" ;;
  models-3) python real_models.py --target cuda --min-mb 16 --max-mb 40 --json "$out.models-3" ;;
  memcheck | racecheck | initcheck) sanitize "$part" ;;
  latency-1) python on_gpu.py latency --json "$out" mlp64 resnet18 resnet50 mobilenetv2 ;;
  latency-2) python on_gpu.py latency --json "$out" mobilenetv3_small efficientnet_b0 convnext_tiny vit_b16 ;;
  latency-3) python on_gpu.py latency --json "$out" unet yolov8n bert_base distilbert ;;
  latency-4) python on_gpu.py latency --json "$out" gpt2 gpt2_kv whisper_enc whisper_dec t5_enc t5_dec ;;
  latency-5) python on_gpu.py latency --json "$out" --batch 32 resnet50 bert_base vit_b16 ;;
  latency-6) python on_gpu.py latency --json "$out" --precision fp32 resnet50 bert_base && python on_gpu.py latency --json "$out" --precision tf32 resnet50 bert_base ;;
  autotune-1) python on_gpu.py latency --json "$out" --torch max-autotune,graph resnet50 ;;
  autotune-2) python on_gpu.py latency --json "$out" --torch max-autotune,graph mobilenetv2 ;;
  autotune-3) python on_gpu.py latency --json "$out" --torch max-autotune,graph vit_b16 ;;
  table) python on_gpu.py table --json "$out" --markdown ../docs/cuda_speed.md ;;
  *) echo "there is no part $part" >&2; exit 2 ;;
esac
