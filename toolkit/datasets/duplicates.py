"""Search for near copies: images that differ only by compression, size, brightness, a small crop or shift."""

import numpy as np
import torch
from scipy.fft import dctn

from toolkit.core.progress_bar import progress_bar

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue
COEFFICIENTS, OF_COLOUR = 8, 4  # kept in each direction: for the brightness, and for two differences of colours
SHRINKAGE = 0.1  # share of the mean variance that is added to each variance, so that noise is not amplified
LEAST = 0.75  # smallest similarity of near copies
LEAST_OF_FEW, FEW = 0.85, 100  # the same for datasets of fewer images, too few to estimate their density
BY_CHANCE = 1e-8  # expected number of images that are as near to an image by chance
NEIGHBOURS, SAMPLE = 100, 10_000  # number of nearest neighbours, in a sample of this size, to estimate the density
CHUNK = 500  # number of images that are compared with all others at once


def perceptual_hash(pixels):
    """Return a float32 vector (D,) for a small image, uint8 (height, width, channels); similar images, similar vectors.

    It has the low frequencies of the cosine transform, as the perceptual hash pHash (C. Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", 2010), but numbers in place of bits, and colours in addition.
    """
    image = pixels.astype(np.float32)
    grey = image @ LUMINANCE if image.shape[-1] == 3 else image[..., 0]  # (height, width)
    low = dctn(grey, norm="ortho")[:COEFFICIENTS, :COEFFICIENTS].ravel()[1:]  # without the mean, which is brightness
    if image.shape[-1] == 1:
        return low
    colours = dctn(image[..., ::2] - grey[..., None], axes=(0, 1), norm="ortho")  # (height, width, 2)
    return np.concatenate([low, colours[:OF_COLOUR, :OF_COLOUR].ravel()[2:]])


def near_copies(hashes):
    """Return the pairs of images that are nearer to each other than chance explains.

    The similarity is the cosine between whitened hashes. Where images are dense (a thousand similar handwritten
    digits), the threshold is higher: so high that BY_CHANCE other images are expected above it. The density around an
    image follows from the distances of its nearest neighbours and their local dimension (E. Levina, P. Bickel, "Maximum
    Likelihood Estimation of Intrinsic Dimension", NIPS 2004). As a consequence, images with more than about fifty near
    copies, such as frames of a video, count as dense and not as copies.

    Args:
        hashes: float32 array (N, D), of images with different pixels.

    Returns:
        pairs: int64 array (P, 2) of indices, the smaller one first; the most similar pair first.
        similarity: float32 array (P,).
    """
    centred = hashes - hashes.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(hashes))
    white = centred @ (directions / np.sqrt(variances.clip(0) + SHRINKAGE * variances.mean() + 1e-9))
    vectors = torch.nn.functional.normalize(torch.from_numpy(white.astype(np.float32)))  # (N, D)
    least = least_similarity(vectors)  # (N,)
    pairs, similarity = [], []
    with progress_bar("near copies", len(vectors)) as bar:
        for first in range(0, len(vectors), CHUNK):
            chunk = slice(first, first + CHUNK)
            found = vectors[chunk] @ vectors[first:].T  # (CHUNK, N - first)
            mask = ((found >= least[chunk, None]) & (found >= least[first:])).triu(1)  # each pair once
            pairs.append(first + mask.nonzero())
            similarity.append(found[mask])
            bar.update(len(found))
    pairs, similarity = torch.cat(pairs), torch.cat(similarity)
    order = similarity.argsort(descending=True, stable=True)
    return pairs[order].numpy(), similarity[order].numpy()


def least_similarity(vectors):
    """Return the smallest similarity of a near copy of each image, (N,), from vectors of length 1, (N, D)."""
    if len(vectors) < FEW:
        return torch.full((len(vectors),), LEAST_OF_FEW)
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    sample, count = vectors[chosen], min(NEIGHBOURS, len(chosen) // 10)
    nearest = torch.empty(len(vectors), count)  # filled in parts: concatenating large products fragments memory
    for part, filled in zip(vectors.split(CHUNK), nearest.split(CHUNK), strict=True):
        filled[:] = (part @ sample.T).topk(count).values
    distances = (2 - 2 * nearest).clamp(min=1e-6).sqrt()  # (N, count), between vectors of length 1
    farthest = distances[:, -1]
    between = distances[:, max(1, count // 5) : -1]  # without the nearest, which may be copies
    dimension = 1 / (farthest[:, None] / between).log().mean(dim=1).clamp(min=1e-6)  # (N,)
    expected = count * len(vectors) / len(sample)  # number of images within the farthest distance
    radius = farthest * (np.log(BY_CHANCE / expected) / dimension).exp()
    return (1 - radius**2 / 2).clamp(min=LEAST)
