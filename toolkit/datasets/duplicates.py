"""Which of many images are one image, but for a new compression, size, brightness, a small crop or shift."""

import numpy as np
import torch

from toolkit.core.progress_bar import progress_bar

COEFFICIENTS, OF_COLOUR = 8, 4  # in each direction: of the brightness, and of two differences of colours
SHRINKAGE = 0.1  # of the mean variance, added to each: what hardly varies is noise
LEAST = 0.75  # similarity of near copies, wherever they lie
LEAST_OF_FEW, FEW = 0.85, 100  # the same among images that are too few to say how dense they lie
BY_CHANCE = 1e-8  # other images that may be expected to be so near to an image by chance
NEIGHBOURS, SAMPLE = 100, 10_000  # that the density is estimated from: so many nearest, of a sample of so many
MOST_COMPARED = 100_000  # images; the time grows with their square
CHUNK = 500  # images that are compared with all others at once


def perceptual_hashes(pixels):
    """A vector for each image, alike for images that look alike: the low frequencies of a cosine transform.

    These are the numbers of the perceptual hash pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image
    Hash Functions", 2010), which keeps a bit of each; here they are kept whole, and those of two colours with them.

    Args:
        pixels: uint8 array (N, height, width, channels), of small images: 32 pixels a side do.

    Returns:
        float32 array (N, D).
    """
    from scipy.fft import dctn

    parts = []
    for chunk in np.array_split(pixels, -(-len(pixels) // CHUNK)):
        image = chunk.astype(np.float32)  # (n, height, width, channels)
        grey = image @ np.array([0.299, 0.587, 0.114], np.float32) if image.shape[-1] == 3 else image[..., 0]
        low = dctn(grey, axes=(1, 2), norm="ortho")[:, :COEFFICIENTS, :COEFFICIENTS]
        hashes = [low.reshape(len(low), -1)[:, 1:]]  # without the first: a brighter image is still the same
        if image.shape[-1] == 3:
            colours = dctn(image[..., ::2] - grey[..., None], axes=(1, 2), norm="ortho")
            hashes.append(colours[:, :OF_COLOUR, :OF_COLOUR].reshape(len(low), -1)[:, 2:])
        parts.append(np.concatenate(hashes, axis=1))
    return np.concatenate(parts)


def near_copies(hashes):
    """The pairs of images that are nearer to each other than chance would have them.

    The similarity is the cosine between the hashes, made uncorrelated and of one variance. Where images lie densely (a
    thousand handwritten ones, all alike) more of it is asked for: so much that, by the distances of the nearest
    neighbours and how fast they grow (the local dimension of E. Levina, P. Bickel, "Maximum Likelihood Estimation of
    Intrinsic Dimension", NIPS 2004), BY_CHANCE images would be expected there. So an image
    of which there are more than some fifty near copies, as of a long take, counts as one of many that are alike.

    Args:
        hashes: float32 array (N, D), of different images.

    Returns:
        pairs: int64 array (P, 2) of indices, the first smaller than the second, the most similar first.
        similarity: float32 array (P,).
    """
    centred = hashes - hashes.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(hashes))
    white = centred @ (directions / np.sqrt(variances.clip(0) + SHRINKAGE * variances.mean() + 1e-9))
    vectors = torch.nn.functional.normalize(torch.from_numpy(white.astype(np.float32)))  # (N, D)
    least = least_similarity(vectors)  # (N,)
    found_pairs, found_values = [torch.empty(0, 2, dtype=torch.int64)], [torch.empty(0)]
    with progress_bar("near copies", len(vectors)) as bar:
        for first in range(0, len(vectors), CHUNK):
            found = vectors[first : first + CHUNK] @ vectors[first:].T  # (CHUNK, N - first)
            rows, columns = (found >= least[first : first + CHUNK, None]).nonzero(as_tuple=True)
            values = found[rows, columns]
            kept = (columns > rows) & (values >= least[first:][columns])
            found_pairs.append(first + torch.stack([rows[kept], columns[kept]], dim=1))
            found_values.append(values[kept])
            bar.update(len(found))
    pairs, similarity = torch.cat(found_pairs), torch.cat(found_values)
    order = similarity.argsort(descending=True, stable=True)
    return pairs[order].numpy(), similarity[order].numpy()


def least_similarity(vectors):
    """How similar another image has to be to be a near copy of each one; float (N, D) of length 1 to float (N,)."""
    if len(vectors) < FEW:
        return torch.full((len(vectors),), LEAST_OF_FEW)
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    sample, count = vectors[chosen], min(NEIGHBOURS, len(chosen) // 10)
    nearest = torch.empty(len(vectors), count)  # filled piece by piece: results between large products fragment memory
    for part, filled in zip(vectors.split(CHUNK), nearest.split(CHUNK), strict=True):
        filled[:] = (part @ sample.T).topk(count).values
    distances = (2 - 2 * nearest).clamp(min=1e-6).sqrt()  # (N, count), between vectors of length 1
    farthest = distances[:, -1]
    between = distances[:, max(1, count // 5) : -1]  # without the nearest, which may be copies
    dimension = 1 / (farthest[:, None] / between).log().mean(dim=1).clamp(min=1e-6)  # (N,)
    expected = count * len(vectors) / len(sample)  # of all images, within the farthest distance
    radius = farthest * (np.log(BY_CHANCE / expected) / dimension).exp()
    return (1 - radius**2 / 2).clamp(min=LEAST)
