"""Visual abstractor (eq. 1-2): any number of queries, any grid, against a plain restatement."""

import math

import numpy as np
import pytest
import torch
from helpers import abstractor_config, largest_difference, randomize
from torch.nn import functional as F

from owl2.modeling import Owl2AbstractorConfig, Owl2VisualAbstractor
from owl2.modeling.positions import sincos_grid_positions, sincos_positions


def plain_positions(place: int, dim: int) -> list[float]:
    """Sines of all frequencies, then cosines."""
    angles = [place / 10000 ** (index / (dim // 2)) for index in range(dim // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


@pytest.mark.parametrize(("length", "dim"), [(1, 4), (64, 32), (256, 1024)])
def test_query_positions_are_the_sinusoids_of_their_index(length: int, dim: int) -> None:
    wanted = np.array([plain_positions(place, dim) for place in range(length)])
    np.testing.assert_allclose(sincos_positions(length, dim).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (32, 32)])
def test_patch_positions_are_column_then_row(rows: int, columns: int, prefix: int) -> None:
    wanted = [[0.0] * 16] * prefix
    for row in range(rows):
        for column in range(columns):
            wanted.append(plain_positions(column, 8) + plain_positions(row, 8))
    ours = sincos_grid_positions((rows, columns), 16, prefix).numpy()
    np.testing.assert_allclose(ours, np.array(wanted), atol=1e-6)


def restated(model: Owl2VisualAbstractor, patches: torch.Tensor, grid: tuple[int, int], prefix: int) -> torch.Tensor:
    """Eq. 1-2 for one image, head by head, with the positions and the normalised residual of the official code."""
    config, weights = model.config, dict(model.named_parameters())
    count, width, heads = config.num_learnable_queries, config.hidden_size, config.num_attention_heads
    query_places = torch.tensor([plain_positions(place, width) for place in range(count)])
    patch_places = torch.tensor(
        [[0.0] * width] * prefix
        + [
            plain_positions(c, width // 2) + plain_positions(r, width // 2)
            for r in range(grid[0])
            for c in range(grid[1])
        ]
    )
    queries = weights["learnable_queries"]
    for index in range(config.num_hidden_layers):
        w = {
            name.removeprefix(f"layers.{index}."): t
            for name, t in weights.items()
            if name.startswith(f"layers.{index}.")
        }

        def linear(name: str, x: torch.Tensor, w: dict[str, torch.Tensor] = w) -> torch.Tensor:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(name: str, x: torch.Tensor, eps: float, w: dict[str, torch.Tensor] = w) -> torch.Tensor:
            centred = x - x.mean(-1, keepdim=True)
            return (
                centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
            )

        queries = norm("query_norm", queries, 1e-5)
        context = torch.cat([queries, norm("patch_norm", patches, 1e-5)])
        q = linear("attention.q_proj", queries + query_places)
        k = linear("attention.k_proj", context + torch.cat([query_places, patch_places]))
        v = linear("attention.v_proj", context)
        size = width // heads
        attended = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            attended.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), -1) @ v[:, part])
        queries = queries + linear("attention.out_proj", torch.cat(attended, -1))
        x = norm("mlp_norm", queries, 1e-5)
        x = norm("mlp.inner_norm", F.silu(linear("mlp.gate_proj", x)) * linear("mlp.up_proj", x), config.layer_norm_eps)
        queries = queries + linear("mlp.down_proj", x)
    visual = queries @ weights["projection.weight"].T + weights["projection.bias"]
    return torch.cat([visual, weights["end_of_image"][None]])


@pytest.mark.parametrize("queries", [8, 64, 256])
@pytest.mark.parametrize(("grid", "prefix"), [((4, 4), 1), ((3, 5), 0)])
@torch.no_grad()
def test_visual_tokens_are_equations_1_and_2(queries: int, grid: tuple[int, int], prefix: int) -> None:
    config = abstractor_config(num_learnable_queries=queries, layer_norm_eps=1e-3)
    model = randomize(Owl2VisualAbstractor(config, output_size=24)).eval()
    patches = torch.randn(2, prefix + grid[0] * grid[1], 32, generator=torch.Generator().manual_seed(1))
    visual = model(patches, grid=grid, num_prefix=prefix).last_hidden_state
    assert visual.shape == (2, queries + 1, 24)
    for image in range(2):
        assert largest_difference(visual[image], restated(model, patches[image], grid, prefix)) <= 2e-5


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_every_image_ends_with_the_end_of_image_token(layers: int) -> None:
    model = randomize(Owl2VisualAbstractor(abstractor_config(num_hidden_layers=layers), output_size=24)).eval()
    visual = model(torch.randn(3, 17, 32), grid=(4, 4), num_prefix=1).last_hidden_state
    assert torch.equal(visual[:, -1], model.end_of_image.expand(3, -1))


def test_positions_are_neither_parameters_nor_in_the_checkpoint() -> None:
    model = Owl2VisualAbstractor(Owl2AbstractorConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1), 24)
    assert not list(model.buffers())
    assert set(model.state_dict()) == set(dict(model.named_parameters()))
