# SPDX-License-Identifier: Apache-2.0
"""An HTTP client that trusts no server: timeouts, redirects, ranges and logins, all with bounds. Blocking."""
