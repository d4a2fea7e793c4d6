// Runs the tasks of a connection on the thread that reads and writes it, so that a short request costs no change of
// threads: on a busy machine each of these may take longer than the answer.
//
// What may take long is not for this thread; see Routes.

import NIOCore

/// An event loop as the executor of tasks. Thread-safe.
final class EventLoopExecutor: TaskExecutor {
  private let eventLoop: any EventLoop

  init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    eventLoop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }
}
