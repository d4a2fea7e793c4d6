// SPDX-License-Identifier: Apache-2.0
// What the broker does to a worker from outside: its cgroup, and its share of the processors (Confinement).

import Confinement
import Glibc
import SystemAccess

extension Broker {
  /// Takes up the cgroup that the system hands over, if it does.
  func takeCgroups() {
    do throws(Complaint) {
      cgroups = try WorkerCgroups()
      log(.info, "each worker has a cgroup", ("controllers", cgroups?.controllers.joined(separator: " ") ?? ""))
    } catch {
      log(.info, "\(error)")
    }
  }

  /// The user that a worker runs as.
  func userID(of key: WorkerKey) -> uid_t {
    guard isPrivileged else { return geteuid() }
    switch key {
    case .user(let id): return id
    case .gatherer: return Identity.ofGatherer.uid
    case .front: return Identity.ofFront.uid
    case .opener: return geteuid()
    }
  }

  func kill(_ worker: Worker) { _ = end(worker.processID, ofUser: userID(of: worker.key)) }

  /// Puts a new worker into its cgroup.
  func place(_ worker: Worker) {
    // The opener is the broker's own user, and reads nothing that anybody else wrote.
    guard cgroups != nil, worker.key != .opener else { return }
    do throws(Complaint) {
      try cgroups?.place(worker.processID, userID(of: worker.key))
    } catch {
      log(.warning, "\(error)")
    }
  }

  /// Gives a worker its share of the processors. Returns whether it has that now.
  func setShare(of worker: Worker, _ share: ProcessorShare) -> Bool {
    if cgroups?.controllers.contains("cpu") == true {
      cgroups?.setShare(userID(of: worker.key), share)
      return true
    }
    return (try? setPriority(ofGroup: worker.processID, share)) != nil
  }
}
