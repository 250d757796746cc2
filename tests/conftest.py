"""One thread for every test, so that parallel runs do not fight and sums do not depend on the machine."""

import torch

torch.set_num_threads(1)
