"""Models on the maps of layers, each against the formulas of its paper, written out naively."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA
from torch.nn.functional import avg_pool2d, interpolate

from dfkde import Backbone, MapDetector, NonFiniteError, PaDiM, PatchCore, PatchKDE, TrainedDetector
from dfkde.maps import patches
from dfkde.patchcore import greedy_coreset

SHAPES = ((3, 6, 8), (4, 3, 4))


def images(n, seed=0, shapes=SHAPES):
    """Maps of two layers of `n` images; float32, as a reader yields them."""
    rng = np.random.default_rng(seed)
    scale = [rng.uniform(0.5, 2, (*shape[:1], 1, 1)) for shape in shapes]
    return [
        tuple(
            (rng.normal(size=s) * a + a).astype(np.float32)
            for s, a in zip(shapes, scale, strict=True)
        )
        for _ in range(n)
    ]


TRAIN, TEST = images(12), images(3, seed=1)
MODELS = [
    PaDiM(5),
    PatchCore(0.1, n_neighbors=3, n_projected=4),
    PatchCore(0.2, n_neighbors=3, max_patches=100),
    PatchKDE(0.9),
    PatchKDE(4, sigma=0),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=str)


def naive_patches(layers, size=3):
    """Averages of `size` x `size` positions inside of the map, then bilinear, by torch."""
    found = []
    for one in layers:
        tensor = torch.from_numpy(one).double()[None]
        mean = avg_pool2d(tensor, size, 1, size // 2, count_include_pad=False)
        found.append(interpolate(mean, size=(6, 8), mode="bilinear", align_corners=False)[0])
    return torch.cat(found).flatten(1).T.numpy()


def raised(anomaly_map, sigma):
    """Bring a map to four times its size and smooth it, by torch and scipy."""
    h, w = anomaly_map.shape
    large = interpolate(torch.from_numpy(anomaly_map)[None, None], (4 * h, 4 * w), mode="bilinear")
    return gaussian_filter(large[0, 0].numpy(), (sigma * 4 * h / 256, sigma * 4 * w / 256))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_are_averages_on_the_finest_grid(size):
    found = patches(TEST[0], (6, 8), neighbourhood=size)
    np.testing.assert_allclose(found, naive_patches(TEST[0], size), rtol=1e-12, atol=1e-12)


def naive_embedding(layers, channels):
    """Each coarse position stands at the fine positions that it covers."""
    whole = np.concatenate([np.kron(one, np.ones((1, 6 // one.shape[1], 8 // one.shape[2])))
                            for one in layers])  # fmt: skip
    return whole[channels].reshape(len(channels), -1).T


@pytest.mark.parametrize("n", [2, 12, 16, 17, 40])
def test_padim_is_a_gaussian_at_every_position(n):
    train = images(n, seed=2)
    model = PaDiM(5, random_state=3).fit(train)
    drawn = np.sort(np.random.RandomState(3).choice(7, 5, replace=False))
    np.testing.assert_array_equal(model.channels_, drawn)
    embedded = np.stack([naive_embedding(one, drawn) for one in train])
    for layers in TEST:
        test = naive_embedding(layers, drawn)
        expected = []
        for p, x in enumerate(test):
            covariance = np.cov(embedded[:, p].T) + 0.01 * np.eye(5)
            centred = x - embedded[:, p].mean(axis=0)
            expected.append(np.sqrt(centred @ np.linalg.inv(covariance) @ centred))
        expected = np.array(expected).reshape(6, 8)
        found = model.score(layers)
        np.testing.assert_allclose(found.anomaly_map, expected, rtol=1e-9)
        assert found.score == pytest.approx(raised(expected, 4).max(), rel=1e-9)


def test_padim_draws_its_channels_by_the_seed():
    drawn = {tuple(PaDiM(3, random_state=seed).fit(TRAIN).channels_) for seed in range(6)}
    assert len(drawn) > 1


def naive_coreset(points, size, first):
    chosen = [first]
    for _ in range(size - 1):
        distance = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@pytest.mark.parametrize("d", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_coreset_is_the_greedy_one(d, size):
    rng = np.random.default_rng(d)
    points = (rng.normal(size=(60, d)) + 5 * rng.integers(0, 3, (60, 1))).astype(np.float32)
    found = greedy_coreset(points, size, first=4)
    np.testing.assert_array_equal(found, naive_coreset(points.astype(np.float64), size, 4))


def test_the_coreset_chooses_equal_points_once():
    found = greedy_coreset(np.ones((5, 2), dtype=np.float32), 5, first=2)
    assert sorted(found) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n_neighbors", [2, 5])
def test_patchcore_is_the_distance_to_the_coreset_and_equation_7(n_neighbors):
    model = PatchCore(0.1, n_neighbors=n_neighbors).fit(TRAIN)  # 7 dimensions: none projected
    every = np.concatenate([naive_patches(one) for one in TRAIN])
    first = int(np.random.RandomState(0).randint(len(every)))
    bank = every[naive_coreset(every, len(every) // 10, first)]
    np.testing.assert_allclose(model.bank_, bank, rtol=1e-6, atol=1e-6)
    for layers in TEST:
        distances = np.linalg.norm(naive_patches(layers)[:, None] - bank, axis=2)
        found = model.score(layers)
        np.testing.assert_allclose(found.anomaly_map.ravel(), distances.min(axis=1), rtol=1e-5)
        top = distances.min(axis=1).argmax()
        nearest = distances[top].argmin()
        around = np.argsort(np.linalg.norm(bank - bank[nearest], axis=1))[:n_neighbors]
        weight = 1 - np.exp(distances[top, nearest]) / np.exp(distances[top, around]).sum()
        assert found.score == pytest.approx(weight * distances[top, nearest], rel=1e-5)


@pytest.mark.parametrize("side", [1e-9, 1.0, 1e15])
def test_patchcore_weighs_equal_distances_alike(side):
    """The image is as far from each of the four patches, whatever the unit of the features."""
    four = (side * np.eye(4, dtype=np.float32).reshape(4, 2, 2),)
    model = PatchCore(1.0, n_neighbors=4, neighbourhood=1).fit([four])
    found = model.score((np.zeros((4, 2, 2), dtype=np.float32),))
    np.testing.assert_allclose(found.anomaly_map, np.full((2, 2), side), rtol=1e-6)
    assert found.score == pytest.approx(0.75 * side, rel=1e-6)


def test_patchcore_refuses_features_whose_squares_are_too_large():
    far = [tuple(one * np.float32(1e19) for one in layers) for layers in TRAIN]
    with pytest.raises(ValueError, match=r"features must be below 1e\+16 for a coreset, got .*e\+"):
        PatchCore(0.1).fit(far)


def test_patchcore_projects_before_it_chooses():
    plain, projected = (PatchCore(0.1, n_projected=k).fit(TRAIN).bank_ for k in (7, 2))
    assert plain.shape == projected.shape
    assert (plain[0] == projected[0]).all() or (plain != projected).any()
    assert {*map(tuple, projected)} != {*map(tuple, plain)}


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_patch_kde_is_a_kernel_density_at_every_position(shrinkage):
    model = PatchKDE(4, shrinkage=shrinkage, sigma=1.5).fit(TRAIN)
    features = np.stack([naive_patches(one) for one in TRAIN])
    pca = PCA(4, svd_solver="full").fit(features.reshape(-1, 7))
    points = np.stack([pca.transform(one) for one in features], axis=1)
    own = np.stack([np.cov(here.T) for here in points])
    covariances = (own + shrinkage * (own.mean(axis=0) - own)) * 12 ** (-2 / 8)
    for layers in TEST:
        expected = []
        for x, here, cov in zip(pca.transform(naive_patches(layers)), points, covariances,
                                strict=True):  # fmt: skip
            kernels = [multivariate_normal(point, cov).logpdf(x) for point in here]
            expected.append(np.log(12) - logsumexp(kernels))
        expected = np.array(expected).reshape(6, 8)
        found = model.score(layers)
        np.testing.assert_allclose(found.anomaly_map, expected, rtol=1e-8, atol=1e-8)
        assert found.score == pytest.approx(gaussian_filter(expected, 1.5).max(), rel=1e-8)


def test_patch_kde_hardly_shrunk_is_scipys():
    train = images(60, seed=5)
    model = PatchKDE(2, shrinkage=1e-12, neighbourhood=1).fit(train)
    features = np.stack([naive_patches(one, 1) for one in train])
    pca = PCA(2, svd_solver="full").fit(features.reshape(-1, 7))
    test = pca.transform(naive_patches(TEST[0], 1))
    expected = [
        -gaussian_kde(pca.transform(features[:, p]).T).logpdf(x)[0] for p, x in enumerate(test)
    ]
    np.testing.assert_allclose(model.score(TEST[0]).anomaly_map.ravel(), expected, rtol=1e-7)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.999])
def test_patch_kde_keeps_the_fewest_components_of_a_share(share):
    explained = PCA(svd_solver="full").fit(np.concatenate([naive_patches(one) for one in TRAIN]))
    k = len(PatchKDE(share).fit(TRAIN).components_)
    ratios = np.cumsum(explained.explained_variance_ratio_)
    assert ratios[k - 1] >= share
    assert k == 1 or ratios[k - 2] < share


@each_model
def test_the_contract_of_a_model_on_maps(model):
    fitted = clone(model).fit(TRAIN)
    before = [[one.copy() for one in layers] for layers in TRAIN + TEST]
    scores = fitted.anomaly_score(TEST)
    assert scores.dtype == np.float64
    assert [fitted.score(one).anomaly_map.shape for one in TEST] == [(6, 8)] * 3
    again = clone(model).fit(TRAIN)
    np.testing.assert_array_equal(again.anomaly_score(TEST), scores)
    for layers, kept in zip(TRAIN + TEST, before, strict=True):
        for one, copy in zip(layers, kept, strict=True):
            np.testing.assert_array_equal(one, copy)
    far = [tuple(one + 100 for one in layers) for layers in TEST]
    assert (fitted.anomaly_score(far) > scores).all()


@each_model
def test_what_a_model_on_maps_refuses(model):
    with pytest.raises(ValueError, match="read several times, got an iterator"):
        clone(model).fit(iter(TRAIN))
    with pytest.raises(
        ValueError, match=r"of the shapes .* of the first training image, .* image 1"
    ):
        clone(model).fit([TRAIN[0], images(1, shapes=((3, 6, 8), (4, 3, 3)))[0]] * 6)
    with pytest.raises(ValueError, match=r"at least [12] images, got 0"):
        clone(model).fit([])
    with pytest.raises(
        ValueError, match=r"an array .channels, h, w. for each of at least one layer"
    ):
        clone(model).fit([()] * 3)
    broken = [tuple(one.copy() for one in layers) for layers in TRAIN]
    broken[7][1][2, 1, 1] = np.nan
    with pytest.raises(NonFiniteError) as raised_error:
        clone(model).fit(broken)
    assert raised_error.value.row == 7
    with pytest.raises(NonFiniteError):
        clone(model).fit(TRAIN).score(broken[7])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PaDiM(8), "n_features must be at most the channels of all layers, 7, got 8"),
        (PaDiM(0), "n_features must be an integer of at least 1, got 0"),
        (PaDiM(2, regularisation=0), "regularisation must be above 0, got 0"),
        (PatchCore(0), r"coreset_ratio must lie in \(0, 1\], got 0"),
        (PatchCore(n_neighbors=1), "n_neighbors must be an integer of at least 2, got 1"),
        (PatchCore(0.01), "n_neighbors must be at most the size of the coreset, 5 of 576 patches"),
        (PatchCore(neighbourhood=2), "neighbourhood must be an odd integer of at least 1, got 2"),
        (PatchCore(max_patches=0), "max_patches must be an integer of at least 1, got 0"),
        (PatchCore(max_patches=80), "size of the coreset, 8 of 80 patches, got 9"),
        (PatchKDE(8), "n_components must be at most the channels of all layers, 7, got 8"),
        (PatchKDE(1.5), r"a share of the variance in \(0, 1\), got 1.5"),
        (PatchKDE(shrinkage=0), r"shrinkage must lie in \(0, 1\], got 0"),
        (PatchKDE(sigma=-1), "sigma must be at least 0, got -1"),
        (PatchKDE(neighbourhood=True), "neighbourhood must be an odd integer of at least 1"),
    ],
)
def test_each_parameter_has_its_rule(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(TRAIN)


def test_equal_images_have_no_density():
    same = [TRAIN[0]] * 5
    with pytest.raises(ValueError, match="vary between the images in as many directions, got 0"):
        PatchKDE(3).fit(same)
    flat = [tuple(np.ones_like(one) for one in TRAIN[0])] * 5
    with pytest.raises(ValueError, match=r"n_components=1 needs .* as many directions, got 0"):
        PatchKDE(0.9).fit(flat)
    assert np.isfinite(PaDiM(3).fit(same).score(TEST[0]).score)


@each_model
def test_a_saved_model_gives_equal_scores(model, tmp_path):
    backbone = Backbone("mymodule:build", {}, None, ["a"], [0.5] * 3, [0.5] * 3, "", maps_of=["b"])
    fitted: MapDetector = clone(model).fit(TRAIN)
    TrainedDetector(fitted, None, backbone, {}, fitted.anomaly_score(TRAIN)).save(tmp_path)
    loaded = TrainedDetector.load(tmp_path, trusted=["mymodule:build"])
    assert loaded.backbone == backbone
    for layers in TEST:
        found, expected = loaded.model.score(layers), fitted.score(layers)
        assert found.score == expected.score
        np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
