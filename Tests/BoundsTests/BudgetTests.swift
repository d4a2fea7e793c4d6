// SPDX-License-Identifier: Apache-2.0
// What a question may cost: each limit ends it, and is said.

import Bounds
import Synchronization
import SystemAccess
import TestSupport
import Testing

@Suite("budgets", .bounded)
struct BudgetTests {
  /// The code of the complaint with which `body` ends within `budget`; nil if it ends without one.
  private func code(_ budget: Budget, _ body: () -> Void) -> Int32? {
    do throws(Complaint) {
      try budget.run { () throws(Complaint) in body() }
      return nil
    } catch { return error.code }
  }

  @Test("a question within its budget is answered, and no budget is left on the thread")
  func withinBudget() throws {
    let budget = Budget(seconds: 1000, bytes: 1000)
    let answer = try budget.run { () throws(Complaint) -> Int in
      #expect(Budget.current === budget)
      var meter = BudgetMeter()
      var rounds = 0
      while rounds < 10_000, meter.goesOn() { rounds += 1 }
      return rounds
    }
    #expect(answer == 10_000)
    #expect(Budget.current == nil)
  }

  @Test("a loop without end ends at the deadline")
  func time() {
    #expect(
      code(Budget(seconds: 0.01, bytes: 1000)) {
        var meter = BudgetMeter()
        while meter.goesOn() {}
      } == 62)
  }

  @Test("memory that is spent beyond the budget ends the question; memory given back does not count")
  func memory() {
    #expect(code(Budget(seconds: 1000, bytes: 1000)) { Budget.current?.spend(bytes: 1001) } == 12)
    #expect(
      code(Budget(seconds: 1000, bytes: 1000)) {
        for _ in 0..<10 {
          Budget.current?.spend(bytes: 900)
          Budget.current?.giveBack(bytes: 900)
        }
      } == nil)
    #expect(
      code(Budget(seconds: 1000, bytes: 1000)) { for _ in 0..<9 { Budget.current?.spend(bytes: .max) } } == 12)
  }

  @Test("a thousand small tables cost what they hold, not a piece each")
  func smallTables() {
    let budget = Budget(seconds: 1000, bytes: 4 << 20)
    let code = code(budget) {
      for _ in 0..<1000 {
        var memory = MemoryMeter(bytes: 72)
        for _ in 0..<10 {
          let goesOn = memory.goesOn()
          #expect(goesOn)
        }
      }
    }
    #expect(code == nil)
  }

  @Test("memory that grows thing by thing is spent before it is there, and ends the question")
  func growingMemory() {
    for bytes in [1, 64, 1 << 20, 3 << 20] {
      var things = 0
      let ending = code(Budget(seconds: 1000, bytes: 8 << 20)) {
        var memory = MemoryMeter(bytes: bytes)
        while memory.goesOn() { things += 1 }
      }
      #expect(ending == 12)
      // Never more than there is, and no less than all but a piece of a MiB, or one thing.
      #expect(things * bytes <= 8 << 20 && things * bytes > 8 << 20 - max(1 << 20, bytes) - bytes)
    }
    var unbounded = MemoryMeter(bytes: 1 << 40)
    for _ in 0..<100 {
      let goesOn = unbounded.goesOn()
      #expect(goesOn)
    }
  }

  @Test("a meter that has said no says no again, and none asks the clock in each round")
  func meters() throws {
    let budget = Budget(seconds: 1000, bytes: 1000)
    let error = #expect(throws: Complaint.self) {
      try budget.run { () throws(Complaint) in
        budget.cancel()
        var meter = BudgetMeter(interval: 100)
        var rounds = 0
        while rounds < 1000, meter.goesOn() { rounds += 1 }
        #expect(rounds == 99)
        #expect(!meter.goesOn() && !meter.goesOn())
      }
    }
    #expect(error?.code == 125)
    #expect(Budget.spendCurrent(bytes: .max), "without a budget there is no bound")
    #expect(throws: Never.self) { try Budget(seconds: 1, bytes: 5).check() }
    #expect(throws: Complaint.self) {
      try Budget(seconds: .nan, bytes: 5).run { () throws(Complaint) in
        var meter = BudgetMeter(interval: 1)
        while meter.goesOn() {}
      }
    }
  }

  @Test("questions that run at one time share the memory of the process, and what one had comes back with its end")
  func sharedMemory() {
    // Far more than what other tests, which may run beside this one, ever take.
    let all = 1 << 45
    Budget.shareMemory(bytes: all)
    func ask(_ body: () -> Void) -> Int32? { code(Budget(seconds: 1000, bytes: all), body) }
    for _ in 0..<3 {
      var others: [Int32?] = []
      let one = ask {
        Budget.spendCurrent(bytes: all / 4 * 3)
        others.append(ask { Budget.spendCurrent(bytes: all / 2) })
        // What that one didn't get is there for another.
        others.append(ask { Budget.spendCurrent(bytes: all / 8) })
        Budget.current?.giveBack(bytes: all / 2)
        others.append(ask { Budget.spendCurrent(bytes: all / 2) })
      }
      #expect(one == nil)
      #expect(others == [11, nil, nil])
    }
    // No more comes back than was taken.
    var other: Int32?
    let one = ask {
      Budget.current?.giveBack(bytes: all)
      Budget.spendCurrent(bytes: all / 4 * 3)
      other = ask { Budget.spendCurrent(bytes: all / 2) }
    }
    #expect(one == nil)
    #expect(other == 11)
  }

  @Test("a question whose asker has gone ends")
  func cancellation() {
    let budget = Budget(seconds: 1000, bytes: 1000)
    var rounds = 0
    let code = code(budget) {
      var meter = BudgetMeter(interval: 1)
      while meter.goesOn() {
        rounds += 1
        if rounds == 5 { budget.cancel() }
      }
    }
    #expect(code == 125)
    #expect(rounds == 5)
  }

  private final class Words: Sendable {
    let told = Mutex<[String]>([])
  }

  @Test("a question that asks no meter and goes on after its time is told of, once; those within theirs are not")
  func watchdog() throws {
    let words = Words()
    try Watchdog.begin(patience: 0.03) { question in words.told.withLock { $0.append(question) } }
    let budget = Budget(seconds: 1000, bytes: 1000, question: "in time")
    try budget.run { () throws(Complaint) in
      let stuck = Budget(seconds: 0.01, bytes: 1000, question: "stuck")
      #expect(
        code(stuck) {
          // A cancelled question may be stuck, too.
          stuck.cancel()
          try? wait(for: "the stuck question is told of") { words.told.withLock { $0.contains("stuck") } }
        } == 125)
    }
    // Another question is told of later: by then the first would have been told of again.
    let other = Budget(seconds: 0.01, bytes: 1000, question: "other")
    #expect(
      code(other) {
        try? wait(for: "the other question is told of") { words.told.withLock { $0.contains("other") } }
      } == 62)
    #expect(words.told.withLock { $0 } == ["stuck", "other"])
  }
}
