"""Position tables: fixed sine and cosine tables, and learned ones on another grid."""

import torch
from torch.nn import functional as F


def interpolate_positions(table: torch.Tensor, grid: tuple[int, int], num_prefix: int) -> torch.Tensor:
    """Learned positions for another grid of patches: bicubic, corners not aligned, in float32.

    Args:
        table: [num_prefix + G * G, Dv] positions of a square grid, row by row, after those of special tokens.
        grid: Rows and columns of the patches.

    Returns:
        [num_prefix + rows * columns, Dv]; `table` itself where the grids agree.
    """
    side = round((table.shape[0] - num_prefix) ** 0.5)
    if grid == (side, side):
        return table
    prefix, patches = table[:num_prefix], table[num_prefix:]
    square = patches.float().view(1, side, side, -1).permute(0, 3, 1, 2)  # [1, Dv, G, G]
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([prefix, resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)])


def sincos_positions(length: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Fixed positions of `length` places: the sine half, then the cosine half. [length, dim] float32."""
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64, device=device) / (dim / 2))
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * frequencies  # [length, dim / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_grid_positions(
    grid: tuple[int, int], dim: int, num_prefix: int, device: torch.device | None = None
) -> torch.Tensor:
    """Fixed positions of a grid of patches, row by row: half of the channels from the column, half from the row.

    Returns:
        [num_prefix + rows * columns, dim] float32; the rows of the special tokens in front are zero.
    """
    rows, columns = grid
    by_column = sincos_positions(columns, dim // 2, device)[None].expand(rows, -1, -1)
    by_row = sincos_positions(rows, dim // 2, device)[:, None].expand(-1, columns, -1)
    positions = torch.cat([by_column, by_row], dim=-1).flatten(0, 1)  # [rows * columns, dim]
    return F.pad(positions, (0, 0, num_prefix, 0))
