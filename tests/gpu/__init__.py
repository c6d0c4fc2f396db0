"""What only a GPU can show: `make gpu-check`. Without one they are skipped; `VITDEMO_GPU_DEVICE=cpu` rehearses them."""
