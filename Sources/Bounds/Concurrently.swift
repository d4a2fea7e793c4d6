// SPDX-License-Identifier: Apache-2.0
// One question on several processors. All threads have the budget of the thread that asks: each meter of theirs ends
// where that budget does.

import Glibc
import Synchronization
import SystemAccess

/// The part of a question that several threads share. Threads are started for one call, and have ended when it returns.
public enum Concurrently {
  /// Processors that one question uses at most: others wait for answers, too.
  private static let most = 4

  /// Threads that a question may be divided among: as many as there are processors, from 1 to 4.
  public static let threadCount = min(max(sysconf(Int32(_SC_NPROCESSORS_ONLN)), 1), most)

  /// Calls `body` once on each of `count` threads, with 0 to `count` - 1; the caller is one of them. Returns when all
  /// calls have returned. Where a thread can't be started, the caller makes its call, too, behind its own: `body` may
  /// not wait for another call of itself.
  ///
  /// The calls run at the same time, and the compiler does not check what they share.
  public static func run(_ count: Int, _ body: (Int) -> Void) {
    guard count > 1 else { return body(0) }
    withoutActuallyEscaping(body) { body in
      var started: [pthread_t] = []
      var missing: [Int] = []
      for number in 1..<count {  // bounded: count is above 1, and the caller's own
        let call = Call(number: number, budget: Budget.current, body: body)
        let argument = Unmanaged.passRetained(call)
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        // A stack counts as memory of the process in whole.
        pthread_attr_setstacksize(&attributes, 512 << 10)
        var thread = pthread_t()
        let code = pthread_create(
          &thread, &attributes,
          { argument in
            if let argument { Unmanaged<Call>.fromOpaque(argument).takeRetainedValue().make() }
            return nil
          }, argument.toOpaque())
        pthread_attr_destroy(&attributes)
        if code == 0 {
          started.append(thread)
        } else {
          argument.release()
          missing.append(number)
        }
      }
      body(0)
      for number in missing { body(number) }
      for thread in started { pthread_join(thread, nil) }
    }
  }

  private final class Call {
    let number: Int
    let budget: Budget?
    let body: (Int) -> Void

    init(number: Int, budget: Budget?, body: @escaping (Int) -> Void) {
      (self.number, self.budget, self.body) = (number, budget, body)
    }

    func make() {
      if let budget { budget.makeCurrent { body(number) } } else { body(number) }
    }
  }
}
