

def read_items(files, params):
    known = load_wine().data[np.arange(178) % 5 > 1]  # the train split
    rows = np.concatenate([np.loadtxt(file, delimiter=",", ndmin=2) for file in files])  # (N, 13)
    features = torch.tensor((rows - known.mean(axis=0)) / known.std(axis=0), dtype=torch.float32)
    return [f"wine {number}" for number in range(1, len(rows) + 1)], features.split(params.batch_size)


def describe(outputs, names, params):  # arrays as metrics get them
    return [{"cultivar": "ABC"[number]} for number in outputs.argmax(axis=1)]
