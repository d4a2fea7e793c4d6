// SPDX-License-Identifier: Apache-2.0
// A watch over a process: looks with waits between them, and then the verdicts (Watching/GrowthWatch.swift).
//
// Each look is a question, with the budget of one, and waits for its turn as any other. Between two looks nothing runs,
// and no turn is held: a timer of the connection's event loop begins the next look. What the looks have told stays in
// memory meanwhile, and is taken off the memory for all questions. A watch ends when its client goes; when the server
// stops, it is cut short, and tells what was seen until then.

import Answers
import Bounds
import Glibc
import Hummingbird
import NIOCore
import Provenance
import ServiceLifecycle
import SystemAccess
import Watching

extension Routes {
  /// A watch is no longer than this, in seconds.
  private static let longestWatch = 3600.0
  /// What the looks of one watch may take, in bytes. A site takes two kilobytes, and a look has two thousand at most;
  /// there are more only where each look has others.
  private static let watchMemory = 64 << 20

  @Sendable func growth(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(
      request, known: ["every", "for", "group", "level", "limit", "within", "wrapper"])
    let length = try parameters.length("for", in: 0.1...Self.longestWatch) ?? 60
    let step = try parameters.length("every", in: 0.1...Self.longestWatch)
    if let step, !GrowthWatch.mayLast(length, every: step) {
      throw Complaint(
        .usage, what: "these are more than \(GrowthWatch.mostLooks) looks", advice: "give a longer `every`")
    }
    let grouping = try parameters.choice("group", of: HeapGrouping.self) ?? .site
    guard grouping != .age else {
      throw Complaint(.usage, what: "of ages nothing can be told, as each block grows older", advice: "group otherwise")
    }
    let limit = try parameters.number("limit", in: 1...1000) ?? 10
    // A HEAD request, which gets no body, waits for nothing.
    var watch = GrowthWatch(for: request.method == .head ? 0 : length, every: step, by: grouping, limit: limit)
    let scope = try parameters.scope()

    /// For a thread of the pool.
    @Sendable func look(_ divisions: [Moment], after last: WatchLook?) throws -> WatchLook {
      let time = seconds(of: CLOCK_MONOTONIC)
      var scope = scope
      scope.divisions = divisions
      do {
        let table = try view(process, context).top(limit: GrowthWatch.rowLimit, by: grouping, scope: scope)
        let json = Array(table.json.utf8)
        // What is read from it takes several times as much.
        Budget.spendCurrent(bytes: json.count &* 8)
        try Budget.current?.check()
        return try WatchLook(json: json, by: grouping, time: time)
      } catch let complaint as Complaint {
        // The blocks of the group are gone meanwhile.
        guard complaint.kind == .noSuchGroup, let last else { throw complaint }
        return last.emptied(at: time)
      }
    }

    // bounded: seconds in floating point
    let held = Budget(seconds: length + Self.longestWatch, bytes: Self.watchMemory)
    var taken = 0
    defer { held.giveBack(bytes: taken) }
    let (moments, due) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    context.closing.whenComplete { _ in due.finish() }
    var waits = moments.cancelOnGracefulShutdown().makeAsyncIterator()
    var isCutShort = false
    while true {
      let now = seconds(of: CLOCK_REALTIME)
      let next = try await answer(request, context) { [watch] in try look(watch.divisions, after: watch.series.last) }
      guard !next.hasEnded || watch.series.last != nil else { throw GrowthReport.ended(process.id) }
      watch.add(next, at: now)
      let more = max(0, watch.series.bytes &- taken)
      taken &+= more
      held.spend(bytes: more)
      try held.check()
      guard !isCutShort, let next = watch.next else { break }
      let delay = Foreign<Int64>(wholePartOf: max(0, next - seconds(of: CLOCK_MONOTONIC)) * 1e9).saturated()
      let timer = context.closing.eventLoop.scheduleTask(in: .nanoseconds(delay)) { due.yield() }
      // Where the client has gone, the next look ends at once, and the watch with it.
      isCutShort = await waits.next() == nil
      timer.cancel()
    }
    let body = try await answer(request, context) { [watch, isCutShort] in
      let closing = watch.closing()
      let final = try look(closing.divisions, after: watch.series.last)
      let report = watch.report(closing, final, isCutShort: isCutShort)
      return Self.rendered(for: request, report.text, report.json)
    }
    return respond(to: request, body)
  }
}
