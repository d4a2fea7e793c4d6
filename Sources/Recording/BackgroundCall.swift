// SPDX-License-Identifier: Apache-2.0
// A piece of work beside whoever asked for it.

import Glibc
import Synchronization

/// A call on a thread of its own; without a thread, it is made at once. To be joined: until then,
/// what the call touches belongs to its thread.
final class BackgroundCall {
  private let body: () -> Void
  private let niceness: Int32
  private var thread: pthread_t?
  private let done = Atomic<Bool>(false)

  /// `niceness`: by how much lower the thread's priority is than that of others.
  init(niceness: Int32 = 0, _ body: @escaping () -> Void) {
    (self.body, self.niceness) = (body, niceness)
    var created = pthread_t()
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    // A stack counts as memory of the process in whole, where that has a limit.
    pthread_attr_setstacksize(&attributes, 1 << 20)
    defer { pthread_attr_destroy(&attributes) }
    let code = pthread_create(
      &created, &attributes,
      { argument in
        if let argument { Unmanaged<BackgroundCall>.fromOpaque(argument).takeUnretainedValue().runOnThread() }
        return nil
      }, Unmanaged.passUnretained(self).toOpaque())
    if code == 0 { thread = created } else { run() }
  }

  /// Whether joining would not wait.
  var isDone: Bool { done.load(ordering: .acquiring) }

  private func runOnThread() {
    if niceness != 0 { setpriority(__priority_which_t(UInt32(PRIO_PROCESS.rawValue)), 0, niceness) }
    run()
  }

  private func run() {
    body()
    done.store(true, ordering: .releasing)
  }

  func join() {
    if let thread { pthread_join(thread, nil) }
    thread = nil
  }
}
