

def wines(split, whole=wines):
    return [({"acids": x[:4], "others": x[4:]}, label) for x, label in whole(split)]
