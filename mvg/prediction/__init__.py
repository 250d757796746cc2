"""From files, arrays and tensors to answers on their own grid: predictors, examples, outputs and the command."""
