# SPDX-License-Identifier: Apache-2.0
# meta-rauc's: nothing of it matters here.
