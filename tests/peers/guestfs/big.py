def make(out, files, size):
    raise NotImplementedError
