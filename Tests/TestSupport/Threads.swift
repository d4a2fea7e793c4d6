// SPDX-License-Identifier: Apache-2.0
// Threads of their own for bodies that have to run at the same time. Tasks share as many threads as there are
// processors with all other tests, which block them: a body that waits for another could wait for ever.

import Foundation

/// Runs each body on a thread of its own, and returns when all have returned.
package func runOnThreads(_ bodies: [@Sendable () -> Void]) {
  let group = DispatchGroup()
  for body in bodies {
    group.enter()
    Thread.detachNewThread {
      body()
      group.leave()
    }
  }
  group.wait()
}
