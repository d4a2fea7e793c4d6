// SPDX-License-Identifier: Apache-2.0
// A file descriptor and its owner.

import Glibc

/// Owns a descriptor and closes it.
public struct Descriptor: ~Copyable, Sendable {
  public let number: Int32

  public init(adopting number: Int32) { self.number = number }

  deinit { close(number) }

  /// Gives the descriptor to a caller that closes it from now on.
  public consuming func release() -> Int32 {
    let number = number
    discard self
    return number
  }
}
