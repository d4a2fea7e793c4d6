// SPDX-License-Identifier: Apache-2.0
// `allocsctl top` on a terminal: drives what Watching describes. One thread has the terminal; another asks the source,
// which may take its time, so that keys are answered meanwhile. When the next look comes, WatchPace says.

import Answers
import ArgumentParser
import ByteText
import Glibc
import Provenance
import Synchronization
import SystemAccess
import Watching

/// Watches one process.
final class Watch {
  /// A question to the source.
  private struct Question: Sendable {
    enum Kind: Sendable {
      case look(order: SiteOrder)
      /// In lines of so many columns.
      case page(WatchState.Page.Kind, key: String, columns: Int)
      /// How the process ended.
      case ending
    }
    var kind: Kind
    var grouping: HeapGrouping
    var sinceMark: String?
    /// Answers to questions before the present group and window are thrown away.
    var era: Int
  }

  private struct Answer: Sendable {
    var question: Question
    var result: Result<[UInt8], Complaint>
    /// When it was asked, and what it took, in seconds.
    var time: Double
    var cost: Double
  }

  private let pid: Int32
  private let scope: ScopeRequest
  private let limit: Int
  private var state: WatchState

  init(_ pid: Int32, _ scope: ScopeRequest, _ grouping: HeapGrouping, _ sort: Top.Order, limit: Int) {
    self.pid = pid
    self.scope = scope
    self.limit = limit
    let column: WatchColumn =
      switch sort {
      case .known(.bytes): .bytes
      case .known(.blocks): .blocks
      case .known(.age): .oldest
      case .known(.newest): .newest
      case .known(.name): .name
      case .known(.rate): .rate
      case .growth: .growth
      }
    var words: [String] = []
    if !scope.window.isAll { words.append("of a window of time") }
    if let group = scope.group { words.append("within \(group.grouping.rawValue) \(group.key)") }
    state = WatchState(
      processID: pid, by: grouping, sort: column, windowWords: words.isEmpty ? nil : words.joined(separator: ", "))
    state.keepsTotals = scope.window.isAll && !scope.countsMappings && scope.group?.grouping.isOfContexts ?? true
  }

  /// Shows the process until a key or a signal ends it. `source` makes the source, before which the signals are
  /// blocked for all threads. An error before the first look ends the command without a screen.
  func run(_ source: () throws(Complaint) -> any AnswerSource) throws {
    let terminal = try Terminal()
    let asker = try Asker(try source(), pid, scope, limit, terminal.wake)
    var era = 0
    var nextLook = 0.0
    var isFirst = true
    var isAnew = true
    var waiting = 0

    func ask(_ kind: Question.Kind) {
      waiting += 1
      asker.ask(Question(kind: kind, grouping: state.grouping, sinceMark: state.sinceMark, era: era))
    }

    /// A page has lines as wide as the terminal is when it is asked for.
    func askPage(_ kind: WatchState.Page.Kind, _ key: String) {
      let columns = TextLayout.columns(askedFor: "\(terminal.size.columns)") ?? TextLayout.usualColumns
      ask(.page(kind, key: key, columns: columns))
    }

    while true {
      // What is paused, and what has ended, is looked at anew only if the question is another one.
      let isIdle = waiting > 0 || state.look != nil && (state.isPaused || state.ending != nil)
      if !isIdle, seconds(of: CLOCK_MONOTONIC) >= nextLook {
        nextLook = .infinity
        ask(.look(order: state.sourceOrder))
      }
      let size = terminal.size
      terminal.draw(state.lines(columns: size.columns, rows: size.rows), anew: isAnew)
      isAnew = false
      let isWaiting = isIdle || waiting > 0
      switch terminal.wait(seconds: isWaiting ? 3600 : max(0, nextLook - seconds(of: CLOCK_MONOTONIC))) {
      case .late: break
      case .resized: isAnew = true
      case .gone: throw ExitCode(128 + SIGHUP)
      case .ended(let number): throw ExitCode(128 &+ number)
      case .woken:
        while let answer = asker.take() {
          waiting &-= 1
          switch answer.question.kind {
          case .look:
            guard answer.question.era == era else { continue }
            if isFirst { try checkFirst(answer) }
            isFirst = false
            take(answer)
            nextLook = answer.time + answer.cost + state.interval  // bounded: seconds in floating point
            if state.look?.hasEnded == true, state.ending == nil {
              state.ending = "it runs no more"
              ask(.ending)
            }
          case .page(let kind, let key, _): showPage(kind, key, answer)
          case .ending: if case .success(let json) = answer.result { state.ending = Self.ending(json) }
          }
        }
      case .keys(let keys):
        for key in keys {
          switch state.press(key) {
          case nil: break
          case .quit: return
          case .look:
            era &+= 1
            nextLook = 0
          case .callers(let key): askPage(.callers, key)
          case .calls(let key): askPage(.calls, key)
          case .blocks(let key): askPage(.blocks, key)
          case .setMark(let name):
            setMark(name)
            nextLook = 0
          }
        }
      }
    }
  }

  /// Throws where there is nothing to watch: there is no such process, or no such mark.
  private func checkFirst(_ answer: Answer) throws(Complaint) {
    if case .failure(let complaint) = answer.result { throw complaint }
  }

  private func take(_ answer: Answer) {
    // The first look reads the names of all functions, which is done once: what it took says nothing of the next ones.
    let isFirst = state.cost == 0
    do throws(Complaint) {
      let json = try answer.result.get()
      let look = try WatchLook(json: json, by: state.grouping, time: answer.time)
      state.cost = answer.cost
      state.take(look)
    } catch {
      state.problem = error.description
    }
    state.interval = isFirst ? 1 : WatchPace.interval(afterLookOf: state.cost)
  }

  private func showPage(_ kind: WatchState.Page.Kind, _ key: String, _ answer: Answer) {
    switch answer.result {
    case .success(let bytes):
      let title =
        switch kind {
        case .callers: "who calls it, from the allocation site outwards"
        case .calls: "what leads to it, from the outermost callers on"
        case .blocks: "its blocks"
        case .help: ""
        }
      let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
      state.page = WatchState.Page(kind, key: key, title: title, lines: lines.map(String.init))
    case .failure(let complaint): state.message = complaint.description
    }
  }

  private func setMark(_ name: String) {
    do throws(Complaint) {
      let former = try ProcessView(pid: pid).setMark(name)
      state.message = former == nil ? "this moment is marked \(name)" : "the mark \(name) is moved to this moment"
    } catch {
      state.message = error.description
    }
  }

  /// How the process ended, by the JSON of `info`.
  private static func ending(_ json: [UInt8]) -> String {
    guard let value = try? JSONValue(json) else { return "it runs no more" }
    if let status = value["exit_status"]?.count { return "exit status \(status)" }
    if let signal = value["signal"]?.text { return signal.escaped }
    return value["state"]?.text?.escaped ?? "it runs no more"
  }

  /// The thread that asks.
  private final class Asker: Sendable {
    private struct State {
      var questions: [Question] = []
      var answers: [Answer] = []
    }
    private let state = Mutex(State())
    private let signal = Signal()

    init(
      _ source: any AnswerSource, _ pid: Int32, _ scope: ScopeRequest, _ limit: Int,
      _ wake: @escaping @Sendable () -> Void
    ) throws(Complaint) {
      let context = Unmanaged.passRetained(
        Context(source: source, pid: pid, scope: scope, limit: limit, wake: wake, asker: self))
      var thread = pthread_t()
      let code = pthread_create(
        &thread, nil,
        { context in
          Unmanaged<Context>.fromOpaque(context!).takeRetainedValue().run()  // bounded: it is what stands below
          return nil
        }, context.toOpaque())
      guard code == 0 else {
        context.release()
        throw Complaint(.shortage, what: "can't begin a thread: \(systemWords(code))", advice: "use --once", code: code)
      }
      pthread_detach(thread)
    }

    func ask(_ question: Question) {
      state.withLock { $0.questions.append(question) }
      signal.set()
    }

    func take() -> Answer? { state.withLock { $0.answers.isEmpty ? nil : $0.answers.removeFirst() } }

    /// What the thread has for itself: the source is used by no other.
    private final class Context {
      let source: any AnswerSource
      let pid: Int32
      let scope: ScopeRequest
      let limit: Int
      let wake: @Sendable () -> Void
      let asker: Asker

      init(
        source: any AnswerSource, pid: Int32, scope: ScopeRequest, limit: Int, wake: @escaping @Sendable () -> Void,
        asker: Asker
      ) {
        (self.source, self.pid, self.scope, self.limit, self.wake, self.asker) = (
          source, pid, scope, limit, wake, asker
        )
      }

      func run() {
        while true {
          asker.signal.wait()
          while let question = asker.state.withLock({ $0.questions.isEmpty ? nil : $0.questions.removeFirst() }) {
            let start = seconds(of: CLOCK_MONOTONIC)
            let result: Result<[UInt8], Complaint>
            do throws(Complaint) {
              result = .success(try answer(question))
            } catch {
              result = .failure(error)
            }
            let cost = seconds(of: CLOCK_MONOTONIC) - start  // bounded: in floating point
            let answer = Answer(question: question, result: result, time: start, cost: cost)
            asker.state.withLock { $0.answers.append(answer) }
            wake()
          }
        }
      }

      private func answer(_ question: Question) throws(Complaint) -> [UInt8] {
        var scope = scope
        if let mark = question.sinceMark { scope.window.since = .mark(mark) }
        switch question.kind {
        case .look(let order):
          var request = TopRequest(
            scope: scope, sort: order, grouping: question.grouping, limit: limit, wantsTotals: true,
            divisions: WatchAges.moments)
          do throws(Complaint) {
            return try source.top(of: pid, request, json: true)
          } catch {
            // A process that does not keep what it allocated is watched all the same. Servers of before said nothing
            // more than that it is not to be had.
            guard error.kind == .noTotals || error.kind == .obstacle && order == .rate else { throw error }
            (request.sort, request.wantsTotals) = (order == .rate ? .bytes : order, false)
            return try source.top(of: pid, request, json: true)
          }
        case .page(let kind, let key, let columns):
          scope.group = GroupName(question.grouping, key)
          return try TextLayout.withLines(of: columns) { () throws(Complaint) in
            if kind == .blocks {
              let request = BlocksRequest(scope: scope, sites: [], sizes: 0...UInt64.max, sort: .age, limit: 1000)
              return try source.blocks(of: pid, request, json: false)
            }
            return try source.tree(
              of: pid, TreeRequest(scope: scope, isInverted: kind == .callers, limit: 200), json: false)
          }
        case .ending: return try source.summary(of: pid, json: true)
        }
      }
    }
  }
}
