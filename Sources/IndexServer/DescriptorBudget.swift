// How the descriptors that the server may have are shared out.
//
// Each connection takes one, each live process one by which its end is learnt (EndingWatcher.swift), and each answer
// some for a moment: the segment, the lists of mappings, files of symbols. None of these may leave the others without
// any, whoever opens connections and however many processes start. So what the limit of open files leaves, above those
// that were open at the start and those that the server keeps for itself, is shared between them:
//
//     connections, half, of which all users but root get half | ends of processes, a quarter | all else, a quarter

import Glibc

/// What of the limit of open files is for what.
struct DescriptorBudget {
  /// The limit: the greatest number that the server may have open.
  let limit: Int
  /// What there is to share out.
  private let shared: Int

  var connections: Int { max(shared / 2, 1) }
  var connectionsOfUsers: Int { max(shared / 4, 1) }
  var watchedProcesses: Int { shared / 4 }
  /// Of all else: files held for the names of processes that have ended.
  var heldFiles: Int { min(shared / 16, 4096) }

  /// Of the server's own: loops, timers, signals, its socket, watches and marks.
  private static let own = 32

  init(limit: Int, inherited: Int = 0) {
    self.limit = limit
    shared = max(limit - inherited - Self.own, 0)
  }

  /// Raises the process's limit as far as it may (the soft one is low for the sake of programs that use select(2)), and
  /// shares it out.
  static func raisingLimit() -> DescriptorBudget {
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    var limit = rlimit()
    // Only a wrong number or address makes it fail.
    guard getrlimit(resource, &limit) == 0 else { return DescriptorBudget(limit: 1024) }
    var raised = limit
    raised.rlim_cur = raised.rlim_max
    if setrlimit(resource, &raised) == 0 { limit = raised }
    return DescriptorBudget(limit: Int(clamping: limit.rlim_cur), inherited: openDescriptors)
  }

  /// How many are open now.
  private static var openDescriptors: Int {
    guard let stream = opendir("/proc/self/fd") else { return 3 }
    defer { closedir(stream) }
    var count = 0
    while readdir(stream) != nil { count += 1 }
    // Not the stream's own, nor "." and "..".
    return max(count - 3, 0)
  }
}
