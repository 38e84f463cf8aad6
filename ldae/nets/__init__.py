# SPDX-License-Identifier: Apache-2.0
"""Networks: tensors in, tensors out."""
