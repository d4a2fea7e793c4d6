// SPDX-License-Identifier: Apache-2.0
// One question on several threads: each part is done once, and within the budget of the thread that asks.

import Bounds
import Synchronization
import SystemAccess
import TestSupport
import Testing

@Suite("a question on several threads", .bounded)
struct ConcurrentlyTests {
  @Test("each number is called once, on threads that have the asker's budget", arguments: [1, 2, 3, 4, 16])
  func parts(count: Int) throws {
    let budget = Budget(seconds: 1000, bytes: 1000)
    let calls = Mutex<[Int: Bool]>([:])
    try budget.run { () throws(Complaint) in
      Concurrently.run(count) { number in
        let hasBudget = Budget.current === budget
        calls.withLock { calls in
          #expect(calls[number] == nil)
          calls[number] = hasBudget
        }
      }
      #expect(Budget.current === budget)
    }
    #expect(calls.withLock { $0 } == Dictionary(uniqueKeysWithValues: (0..<count).map { ($0, true) }))
    #expect((1...4).contains(Concurrently.threadCount))
  }

  @Test("all threads end when the budget does")
  func ending() {
    let budget = Budget(seconds: 1000, bytes: 1000)
    let started = Atomic(0)
    #expect(throws: Complaint.self) {
      try budget.run { () throws(Complaint) in
        Concurrently.run(4) { _ in
          if started.add(1, ordering: .relaxed).newValue == 4 { budget.cancel() }
          var meter = BudgetMeter(interval: 1)
          while meter.goesOn() {}
        }
      }
    }
    #expect(started.load(ordering: .relaxed) == 4)
  }
}
