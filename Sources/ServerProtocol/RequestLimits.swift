// SPDX-License-Identifier: Apache-2.0
// The limits of requests that clients know of.

public enum RequestLimits {
  /// Addresses in one `GET /v1/processes/PID/query` that the server answers on the thread that received the request, if
  /// all their stacks have been named before. allocsctl sends longer lists by POST.
  public static let quickAddresses = 64
}
