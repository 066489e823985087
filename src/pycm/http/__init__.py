# SPDX-License-Identifier: Apache-2.0
"""HTTP as a client that trusts nobody: time-outs, redirects, ranges, logins, all bounded. Blocking: for worker threads and processes."""
