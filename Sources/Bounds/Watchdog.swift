// SPDX-License-Identifier: Apache-2.0
// The end of a question that no meter ends: a call of a library (libdw, a demangler) that goes on without end asks no
// meter, and a thread can't be stopped from outside. Only the whole process can end then.
//
// A budget that has a question's words is watched while it runs. Lateness is counted in looks and not in time: a
// process that was stopped, or hardly got a processor, is late by the clock without being stuck.

import Glibc
import Synchronization
import SystemAccess

/// Looks for questions that go on long after their time.
public enum Watchdog {
  private struct Running {
    var last: UInt64 = 0
    var budgets: [UInt64: Budget] = [:]
  }
  private static let running = Mutex(Running())

  static func add(_ budget: Budget) -> UInt64 {
    running.withLock {
      $0.last &+= 1
      $0.budgets[$0.last] = budget
      return $0.last
    }
  }

  static func remove(_ number: UInt64) { running.withLock { _ = $0.budgets.removeValue(forKey: number) } }

  /// Looks in each of so many parts of the patience.
  private static let looks = 30

  private final class Watch: Sendable {
    let pause: UInt32
    let onStuck: @Sendable (String) -> Void

    init(pause: UInt32, onStuck: @escaping @Sendable (String) -> Void) {
      self.pause = pause
      self.onStuck = onStuck
    }

    func run() -> Never {
      var late: [UInt64: Int] = [:]
      while true {
        usleep(pause)
        let budgets = Watchdog.running.withLock { $0.budgets }
        var still: [UInt64: Int] = [:]
        for (number, budget) in budgets where budget.isLate {
          let count = late[number, default: 0] &+ 1
          still[number] = count
          if count == Watchdog.looks { onStuck(budget.question ?? "") }
        }
        late = still
      }
    }
  }

  /// Starts a thread that calls `onStuck` with the words of each question that still runs `patience` seconds after its
  /// time. `onStuck` is to end the process, and must wait for nothing that a stuck thread may hold.
  public static func begin(patience: Double, onStuck: @escaping @Sendable (String) -> Void) throws(Complaint) {
    let pause = min(max(patience / Double(looks), 0.001), 60) * 1e6
    let watch = Watch(pause: UInt32(pause), onStuck: onStuck)  // bounded: at most 60,000,000
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    // A stack counts as memory of the process in whole.
    pthread_attr_setstacksize(&attributes, 256 << 10)
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    let argument = Unmanaged.passRetained(watch)
    var thread = pthread_t()
    let code = pthread_create(
      &thread, &attributes,
      { argument in
        if let argument { Unmanaged<Watch>.fromOpaque(argument).takeRetainedValue().run() }
        return nil
      }, argument.toOpaque())
    guard code == 0 else {
      argument.release()
      throw Complaint(
        .shortage, what: "cannot start the thread that watches questions: \(systemWords(code))",
        advice: "try again later", code: code)
    }
  }
}
