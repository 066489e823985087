# SPDX-License-Identifier: Apache-2.0
# For BBCLASSEXTEND: a variant is parsed beside the recipe, and not looked at.
