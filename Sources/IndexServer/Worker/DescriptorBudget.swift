// SPDX-License-Identifier: Apache-2.0
// How the descriptors that a worker may have are shared out.
//
// Each connection takes a descriptor, and each answer takes some for a moment: the segment, the lists of mappings,
// files of symbols. Neither use may leave the other without descriptors. The worker keeps some descriptors for itself,
// and some were open at its start. Of the rest of the limit of open files, connections get half.

import Glibc

/// The shares of the limit of open files.
struct DescriptorBudget {
  /// The limit: the greatest number that the worker may have open.
  let limit: Int
  /// The descriptors that are shared out.
  private let shared: Int

  var connections: Int { max(shared / 2, 1) }
  /// Files that are held open for the names of processes that have ended: a part of the other half.
  var heldFiles: Int { min(shared / 16, 4096) }

  /// Descriptors of the worker itself: loops, timers, its channel.
  private static let own = 32

  init(limit: Int, inherited: Int = 0) {
    self.limit = limit
    shared = max(limit &- inherited &- Self.own, 0)
  }

  /// Raises this process's limit as far as it may, and shares it out. The soft limit is low for the sake of programs
  /// that use select(2), which the server does not.
  static func raisingLimit() -> DescriptorBudget {
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    var limit = rlimit()
    // getrlimit fails only for a wrong number or address.
    guard getrlimit(resource, &limit) == 0 else { return DescriptorBudget(limit: 1024) }
    var raised = limit
    raised.rlim_cur = raised.rlim_max
    if setrlimit(resource, &raised) == 0 { limit = raised }
    return DescriptorBudget(limit: Int(clamping: limit.rlim_cur), inherited: openDescriptors)
  }

  /// The descriptors that are open now.
  private static var openDescriptors: Int {
    guard let stream = opendir("/proc/self/fd") else { return 3 }
    defer { closedir(stream) }
    var count = 0
    while readdir(stream) != nil { count += 1 }
    // Without the stream's own descriptor, and without "." and "..".
    return max(count &- 3, 0)
  }
}
