// How the descriptors that the server may have are shared out.
//
// Each connection takes one, each live process one by which its end is learnt (EndingWatcher.swift), and each answer
// some for a moment: the segment, the lists of mappings, files of symbols. None of these may leave the others without
// any, whoever opens connections and however many processes start. So the limit of open files is shared between them:
//
//     connections, half, of which all users but root get half | ends of processes, a quarter | all else, a quarter

import Glibc

/// What of the limit of open files is for what.
struct DescriptorBudget {
  /// The limit: the greatest number that the server may have open.
  let limit: Int

  var connections: Int { max(limit / 2, 1) }
  var connectionsOfUsers: Int { max(limit / 4, 1) }
  var watchedProcesses: Int { limit / 4 }
  /// Of all else: files held for the names of processes that have ended.
  var heldFiles: Int { min(limit / 16, 4096) }

  init(limit: Int) { self.limit = limit }

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
    return DescriptorBudget(limit: Int(clamping: limit.rlim_cur))
  }
}
