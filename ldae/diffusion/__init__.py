# SPDX-License-Identifier: Apache-2.0
"""The diffusion process on latents: schedule, network output, sampling both ways, interpolation.

Tensors only.
"""
