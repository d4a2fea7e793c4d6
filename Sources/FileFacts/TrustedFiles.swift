// SPDX-License-Identifier: Apache-2.0
// Which files a process takes apart that other users may have written.
//
// A worker of any user reads what that user may read: it risks that user's own questions only. Root may read all, and
// an error of a parser in root's worker would be everybody's. So that worker takes files apart that are root's own, and
// those of others only where one of root's processes executes them: whoever owns such a file has root's rights already.

import Glibc
import Synchronization

/// The rule of this process; it holds for all of its threads.
public enum TrustedFiles {
  private static let areRootsOnly = Atomic<Bool>(false)

  /// From now on files of other users than root are not trusted, nor those that others may write to.
  public static func trustRootsOnly() { areRootsOnly.store(true, ordering: .relaxed) }

  static func contain(owner: UInt32, mode: UInt32) -> Bool {
    !areRootsOnly.load(ordering: .relaxed) || owner == 0 && mode & (S_IWGRP | S_IWOTH) == 0
  }
}

extension RegularFile {
  /// Whether this process may take it apart, whatever led to it: see `TrustedFiles`.
  public var isTrusted: Bool { TrustedFiles.contain(owner: ownerID, mode: mode) }
}
