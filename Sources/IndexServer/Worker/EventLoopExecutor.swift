// SPDX-License-Identifier: Apache-2.0
// Runs the tasks of a connection on the thread that reads and writes it, so that a short request costs no change of
// threads: on a busy machine each change may take longer than the answer.
//
// Work that may take long runs on other threads (Routes.swift).

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
