"""Plain functions of tensors and arrays that measure."""
