// SPDX-License-Identifier: Apache-2.0
// The resources of the API (docs/http.md): who may ask, how the question is answered, and in which form.

import Answers
import Bounds
import EventExport
import Glibc
import HTTPTypes
import Hummingbird
import IndexReader
import NIOCore
import NIOPosix
import Provenance
import Recording
import ServerProtocol
import SystemAccess

/// Answers requests from the segments that `registry` opens.
struct Routes: Sendable {
  let place: WorkerPlace
  let registry: ProcessRegistry
  let metrics: PrometheusMetrics
  let limits: ConnectionLimits
  /// The threads for work that may take long: reading debug information, visiting all slots. The threads that serve
  /// connections are few, and must not wait for such work.
  let workers: NIOThreadPool
  /// The threads for root's questions, where the worker is another user's: a user who keeps all of their own busy keeps
  /// root waiting for nothing.
  let rootWorkers: NIOThreadPool
  let exports: Exports
  let link: BrokerLink

  private static let rowLimit = 100_000

  func responder() -> some HTTPResponder<CallerContext> {
    let router = Router(context: CallerContext.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: Observation())
    router.get("/v1/processes", use: processes)
    router.get("/v1/processes/{pid}", use: process)
    router.get("/v1/processes/{pid}/query", use: query)
    router.post("/v1/processes/{pid}/query", use: batch)
    router.get("/v1/processes/{pid}/top", use: top)
    router.get("/v1/processes/{pid}/memory", use: memory)
    router.get("/v1/processes/{pid}/tree", use: tree)
    router.get("/v1/processes/{pid}/blocks", use: blocks)
    router.get("/v1/processes/{pid}/map", use: map)
    router.get("/v1/processes/{pid}/profile", use: profile)
    router.get("/v1/processes/{pid}/snapshot", use: snapshot)
    router.get("/v1/processes/{pid}/diff", use: diff)
    router.get("/v1/processes/{pid}/growth", use: growth)
    router.get("/v1/processes/{pid}/events", use: events)
    router.get("/v1/processes/{pid}/marks", use: marks)
    router.get("/metrics", use: figures)
    PageResponse.addRoutes(to: router)
    return router.buildResponder()
  }

  // MARK: processes

  /// Root's questions about all users are the gatherer's to answer, which asks in turn with a media type of its own.
  private func checkIsGathered(_ request: Request, _ context: CallerContext) throws -> Bool {
    guard context.caller.userID == 0, place.isOneOfMany else { return false }
    guard request.headers[.accept] == ProcessRows.mediaType else { throw Misdirected() }
    return true
  }

  @Sendable private func processes(_ request: Request, _ context: CallerContext) async throws -> Response {
    let isGathered = try checkIsGathered(request, context)
    let reader = context.caller.userID
    let selection = try Parameters(request, known: Parameters.ofProcesses).selection()
    guard reader == 0 || reader == place.user else {
      return respond(to: request, Self.rendered(for: request, ProcessList([]).text, ProcessList([]).json))
    }
    let body = try await answer(request, context) { () throws(Complaint) in
      let list = try registry.makingRoom { () throws(Complaint) in
        // Without other workers, root is told what may not be read.
        try ProcessList(selection, ownedBy: place.isOneOfMany || reader != 0 ? place.user : nil)
      }
      return isGathered
        ? ByteBuffer(bytes: ProcessRows.encode(list)) : Self.rendered(for: request, list.text, list.json)
    }
    guard isGathered else { return respond(to: request, body) }
    return Response(
      status: .ok, headers: [.contentType: ProcessRows.mediaType], body: ResponseBody(byteBuffer: body))
  }

  @Sendable private func figures(_ request: Request, _ context: CallerContext) async throws -> Response {
    _ = try checkIsGathered(request, context)
    exports.publishFigures()
    var text = metrics.exposition()
    if !place.isOneOfMany, let answer = try? await link.ask(.askFigures) {
      var sum = MetricSum()
      sum.add(text)
      sum.add(brokerFigures: answer.message.words)
      text = sum.text
    }
    return Response.figures(text)
  }

  @Sendable private func process(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let body = try await answer(request, context) { () throws(any Error) in
      let summary = try view(process, context).summary()
      return Self.rendered(for: request, summary.text, summary.json)
    }
    return respond(to: request, body)
  }

  // MARK: live memory

  @Sendable private func top(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(
      request, known: Parameters.ofScope.union(["divide", "group", "limit", "mapped", "sort", "totals"]))
    var scope = try parameters.scope()
    scope.wantsTotals = try parameters.flag("totals") ?? false
    scope.divisions = try parameters.moments("divide", limit: HeapScope.divisionLimit)
    let divided = scope
    let grouping = try parameters.choice("group", of: HeapGrouping.self) ?? .site
    let sort = try parameters.choice("sort", of: SiteOrder.self) ?? .bytes
    let limit = try parameters.number("limit", in: 1...Self.rowLimit) ?? 20
    let body = try await answer(request, context) { () throws(any Error) in
      let table = try view(process, context).top(limit: limit, sort: sort, by: grouping, scope: divided)
      return Self.rendered(for: request, table.text, table.json)
    }
    return respond(to: request, body)
  }

  @Sendable private func marks(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    _ = try Parameters(request, known: [])
    let body = try await answer(request, context) { () throws(any Error) in
      let marks = try view(process, context).marks()
      return Self.rendered(for: request, marks.text, marks.json)
    }
    return respond(to: request, body)
  }

  @Sendable private func memory(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(request, known: ["pinned", "wrapper"])
    let wrappers = try parameters.wrappers()
    let pins = try parameters.flag("pinned") ?? false
    let body = try await answer(request, context) { () throws(any Error) in
      let account = try view(process, context).memory(wrappers: wrappers, pins: pins)
      return Self.rendered(for: request, account.text, account.json)
    }
    return respond(to: request, body)
  }

  @Sendable private func tree(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(request, known: Parameters.ofScope.union(["inverted", "limit", "mapped"]))
    let scope = try parameters.scope()
    let isInverted = try parameters.flag("inverted") ?? false
    let limit = try parameters.number("limit", in: 1...Self.rowLimit) ?? 50
    let body = try await answer(request, context) { () throws(any Error) in
      let tree = CallTree(of: try view(process, context).stackSums(scope), isInverted: isInverted, limit: limit)
      return Self.rendered(for: request, tree.text, tree.json)
    }
    return respond(to: request, body)
  }

  @Sendable private func blocks(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(
      request, known: Parameters.ofScope.union(["limit", "max-size", "min-size", "site", "sort", "stacks"]))
    let sites = parameters.all("site").map { String($0) }
    let filter = try BlockFilter(
      scope: try parameters.scope(), siteNames: sites, sizes: try parameters.sizes())
    let sort = try parameters.choice("sort", of: BlockOrder.self) ?? .address
    let limit = try parameters.number("limit", in: 1...Self.rowLimit) ?? 20
    let stacks = try parameters.flag("stacks") ?? true
    let kind = MediaKind(accepting: request)
    let body = try await answer(request, context) { () throws(any Error) in
      let list = try view(process, context).blocks(
        filter, sort: sort, limit: limit, stacks: stacks, json: kind != .text)
      return ByteBuffer(bytes: kind == .text ? list.text : list.jsonLines)
    }
    return Response(
      status: .ok, headers: [.contentType: kind.ofList.rawValue], body: ResponseBody(byteBuffer: body))
  }

  @Sendable private func map(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(request, known: Parameters.ofWindow.union(["cells", "from", "to", "wrapper"]))
    let scope = try parameters.scope()
    let range = try parameters.addresses()
    let cells = try parameters.number("cells", in: AddressMap.cellLimits) ?? 2048
    let body = try await answer(request, context) { () throws(any Error) in
      let map = try view(process, context).addressMap(in: range, cells: cells, scope: scope)
      return Self.rendered(for: request, map.text, map.json)
    }
    return respond(to: request, body)
  }

  @Sendable private func profile(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(request, known: Parameters.ofScope.union(["format"]))
    var scope = try parameters.scope()
    guard let format = try parameters.choice("format", of: FileFormat.self) else {
      throw Complaint(
        .usage, what: "the profile has no format",
        advice: "add ?format=\(FileFormat.allCases.map(\.rawValue).joined(separator: " or ?format="))")
    }
    if case .sums(let format) = format { scope.wantsTotals = format.hasTotals }
    @Sendable func file(_ scope: HeapScope) async throws -> (pieces: [ByteBuffer], missing: String?) {
      try await answer(request, context) { () throws(any Error) in
        let view = try view(process, context)
        switch format {
        case .sums(let format):
          let sums = try view.stackSums(scope)
          return ([ByteBuffer(bytes: format.render(sums))], sums.lossSentence)
        case .blocks(let format):
          let output = AnswerPieces()
          let missing = try format.write(liveBlocksOf: view, scope, to: output)
          return (output.pieces, missing)
        }
      }
    }
    var (pieces, missing): ([ByteBuffer], String?)
    do {
      (pieces, missing) = try await file(scope)
    } catch let complaint as Complaint where complaint.code == ENOMEM && scope.wantsTotals {
      // Of many more stacks than have live blocks, a program may have freed all that it allocated there.
      scope.wantsTotals = false
      (pieces, missing) = try await file(scope)
      let words = "what was ever allocated is left out: it takes more memory than an answer may"
      missing = missing.map { "\($0); \(words)" } ?? words
    }
    var headers: HTTPFields = [.contentType: format.mediaType]
    if let missing, let name = HTTPField.Name(MissingHeader.name) { headers[name] = missing }
    return Response(status: .ok, headers: headers, body: ResponseBody(pieces: pieces))
  }

  @Sendable private func snapshot(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    _ = try Parameters(request, known: [])
    let pieces = try await answer(request, context) { () throws(any Error) in
      let output = AnswerPieces()
      try output.write(Snapshot.take(view(process, context)).bytes)
      return output.pieces
    }
    return Response(
      status: .ok, headers: [.contentType: "application/octet-stream"], body: ResponseBody(pieces: pieces))
  }

  @Sendable private func diff(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let parameters = try Parameters(
      request, known: ["by", "level", "limit", "other-program", "to", "totals", "wrapper"])
    guard let name = parameters.all("to").last else {
      throw Complaint(
        .usage, what: "the comparison has no second process", advice: "add ?to= and a process id of the same owner's")
    }
    let other = try ProcessName(String(name))
    let totals = try parameters.flag("totals") ?? false
    var scope = HeapScope(wrappers: try parameters.wrappers(), level: try parameters.level())
    scope.wantsTotals = totals
    let grouping = try parameters.choice("by", of: HeapDifference.Grouping.self) ?? .site
    let limit = try parameters.number("limit", in: 1...Self.rowLimit) ?? 20
    let otherProgram = try parameters.flag("other-program") ?? false
    let (body, growth, doubt) = try await answer(request, context) { [scope] () throws(any Error) in
      let difference = HeapDifference(
        from: try view(process, context).stackSums(scope), named: "process \(process.id)",
        to: try second(other, context).stackSums(scope), named: "process \(other.id)", by: grouping, limit: limit,
        wantsTotals: totals)
      try Budget.current?.check()
      try difference.check(otherProgram: otherProgram, wantsTotals: totals)
      return (Self.rendered(for: request, difference.text, difference.json), difference.growth, difference.doubt)
    }
    var response = respond(to: request, body)
    if let name = HTTPField.Name(GrowthHeader.name) { response.headers[name] = "\(growth)" }
    if let doubt, let name = HTTPField.Name(MissingHeader.name) { response.headers[name] = TextLayout.printable(doubt) }
    return response
  }

  /// The second process of a comparison. A worker has one user's processes, also where root asks about them.
  private func second(_ process: ProcessName, _ context: CallerContext) throws -> ProcessView {
    do {
      return try registry.view(of: process.id, startTime: process.startTime, for: context.caller, isFirst: false)
    } catch is Misdirected {
      throw OtherOwner(id: process.id)
    }
  }

  // MARK: queries

  @Sendable private func query(_ request: Request, _ context: CallerContext) async throws -> Response {
    let process = try ProcessName(context)
    let open = try registry.openView(
      of: process.id, startTime: process.startTime, for: context.caller, asksWhetherAlive: false)
    let parameters = try Parameters(request, known: ["address", "level", "stacks", "wrapper"])
    let wrappers = try parameters.wrappers()
    let level = try parameters.level()
    let stacks = try parameters.flag("stacks") ?? true
    let texts = parameters.all("address")
    guard !texts.isEmpty else {
      throw Complaint(
        .usage, what: "the query names no address", advice: "add ?address=0x…, once or several times, or POST a list")
    }
    let addresses = try texts.map { text throws(Complaint) in try parseAddress(text) }
    let (kind, columns) = MediaKind.accepted(by: request)
    let form: AnswerList.Form = kind == .text ? .text : .jsonLines
    let bytes: ByteBuffer
    let quick = try open.flatMap { open throws(Complaint) in
      try TextLayout.withLines(of: columns) { () throws(Complaint) in
        try Self.quickAnswers(open, wrappers, level, addresses, form, stacks: stacks)
      }
    }
    if let quick {
      bytes = quick
    } else {
      bytes = try await answer(request, context) { () throws(any Error) in
        let view = try view(process, context)
        let few = addresses.count <= RequestLimits.quickAddresses ? addresses : []
        var inquiry = Inquiry(view, wrappers: wrappers, level: level, about: few)
        return try Self.answers(view, &inquiry, addresses, form, stacks: stacks)
      }
    }
    Metric.Count.addresses.increment(by: Int64(addresses.count))
    let type = addresses.count > 1 ? kind.ofList : kind
    return Response(
      status: .ok, headers: [.contentType: type.rawValue], body: ResponseBody(byteBuffer: bytes))
  }

  /// The answers, if making them takes less time than a change of threads would; else nil. A segment made to deceive
  /// may make it take longer: not longer than the budget, and then a thread of the pool has the question.
  private static func quickAnswers(
    _ view: ProcessView, _ wrappers: Wrappers, _ level: Level?, _ addresses: [UInt64], _ form: AnswerList.Form,
    stacks: Bool
  ) throws(Complaint) -> ByteBuffer? {
    guard addresses.count <= RequestLimits.quickAddresses else { return nil }
    do {
      return try QuestionLimits.quick.budget().run { () throws(Complaint) in
        guard view.isQuickToAsk else { return nil }
        var inquiry = Inquiry(view, wrappers: wrappers, level: level, about: addresses)
        // Of a process that has ended, there may be a newer segment.
        guard inquiry.isOfLiveProcess else { return nil }
        for address in addresses { guard inquiry.isQuick(address, stacks: stacks) else { return nil } }
        return try answers(view, &inquiry, addresses, form, stacks: stacks)
      }
    } catch {
      guard error.kind == .budget else { throw error }
      return nil
    }
  }

  private static func answers(
    _ view: ProcessView, _ inquiry: inout Inquiry, _ addresses: [UInt64], _ form: AnswerList.Form, stacks: Bool
  ) throws(Complaint) -> ByteBuffer {
    var list = AnswerList(form: form)
    list.append(addresses, from: &inquiry, stacks: stacks)
    try view.checkIntact()
    return ByteBuffer(taking: &list)
  }

  @Sendable private func batch(_ request: Request, _ context: CallerContext) async throws -> Response {
    let view = try await view(for: request, context)
    let parameters = try Parameters(request, known: ["level", "stacks", "wrapper"])
    let wrappers = try parameters.wrappers()
    let level = try parameters.level()
    let stacks = try parameters.flag("stacks") ?? true
    let kind = MediaKind(accepting: request)
    let batch = Batch(
      view: view, form: kind == .text ? .text : .jsonLines, stacks: stacks, wrappers: wrappers, level: level,
      sizeLimit: limits.bodySize, workers: pool(context), asker: context.asker, limits: limits.question,
      question: Question(request))
    return Response(
      status: .ok, headers: [.contentType: kind.ofList.rawValue],
      body: ResponseBody { writer in try await batch.answer(request.body, to: &writer) })
  }

  // MARK: events

  @Sendable private func events(_ request: Request, _ context: CallerContext) async throws -> Response {
    let view = try await view(for: request, context)
    let parameters = try Parameters(
      request, known: Set(EventFilter.names.map { $0[...] } + ["stacks", "wrapper", "policy"]))
    var filter = EventFilter()
    for name in EventFilter.names {
      for value in parameters.all(name[...]) {
        try filter.add(name, String(value))
      }
    }
    let policy = try parameters.policy()
    let kind = MediaKind(accepting: request)
    let response = EventResponse(
      workers: pool(context), asker: context.asker, limits: limits.question.ofEvents, question: Question(request),
      closing: context.closing, isText: kind == .text)
    let wrappers = try parameters.wrappers()
    let stacks = try parameters.flag("stacks") ?? false
    let stream = EventStream(
      of: view, form: kind == .text ? .text : .jsonLines, stacks: stacks, filter: filter, wrappers: wrappers,
      policy: policy, exporter: exports.exporter, onNews: response.ring)
    try await response.begin(stream)
    // A HEAD request, which gets no body, never asks for events.
    if request.method == .head { stream.cancel() }
    return Response(
      status: .ok, headers: [.contentType: kind.ofList.rawValue],
      body: ResponseBody { writer in try await response.send(stream, to: &writer) })
  }

  // MARK: common steps

  /// The threads that answer the caller.
  private func pool(_ context: CallerContext) -> NIOThreadPool {
    context.caller.userID == 0 ? rootWorkers : workers
  }

  /// Answers a request on a thread of the pool, within its budget.
  func answer<Result: Sendable>(
    _ request: Request, _ context: CallerContext, _ body: @escaping @Sendable () throws -> Result
  ) async throws -> Result {
    let (limits, question) = (limits.question, Question(request))
    return try await pool(context).runIfActive {
      // A request for another worker is answered by an error that is no complaint.
      try context.asker.answer(question, within: limits) { () throws(Complaint) in
        do {
          return Swift.Result<Result, any Error>.success(try body())
        } catch let complaint as Complaint {
          throw complaint
        } catch {
          return .failure(error)
        }
      }.get()
    }
  }

  /// For a thread of the pool.
  func view(_ process: ProcessName, _ context: CallerContext) throws -> ProcessView {
    try registry.view(of: process.id, startTime: process.startTime, for: context.caller, isFirst: context.isFirst)
  }

  private func view(for request: Request, _ context: CallerContext) async throws -> ProcessView {
    let process = try ProcessName(context)
    if let open = try registry.openView(of: process.id, startTime: process.startTime, for: context.caller) {
      return open
    }
    return try await answer(request, context) { try view(process, context) }
  }

  static func rendered(
    for request: Request, _ text: @autoclosure () -> String, _ json: @autoclosure () -> String
  ) -> ByteBuffer {
    ByteBuffer(string: MediaKind(accepting: request) == .text ? text() : json() + "\n")
  }

  func respond(to request: Request, _ body: ByteBuffer) -> Response {
    Response(
      status: .ok, headers: [.contentType: MediaKind(accepting: request).rawValue],
      body: ResponseBody(byteBuffer: body))
  }
}

/// The process that a path names: PID, or PID@START, where START is its start time (field 22 of /proc/PID/stat).
struct ProcessName {
  var id: Int32
  var startTime: UInt64?

  init(_ context: CallerContext) throws(Complaint) { try self.init(context.parameters.get("pid") ?? "") }

  init(_ text: String) throws(Complaint) {
    let parts = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
    let startTime = parts.count > 1 ? UInt64(parts[1], radix: 10) : nil
    guard let first = parts.first, let id = parseProcessID(first), parts.count == 1 || startTime != nil else {
      throw Complaint(
        .usage, what: "\"\(text.prefix(40))\" is not a process id",
        advice: "give a positive number, as GET /v1/processes lists")
    }
    (self.id, self.startTime) = (id, startTime)
  }
}

extension Response {
  /// Figures in Prometheus' text format.
  static func figures(_ text: String) -> Response {
    Response(
      status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
      body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
  }
}

/// The parameters in a request's URI. An unknown parameter is an error: a misspelt one must not be ignored in silence.
struct Parameters {
  private var values: [(name: Substring, value: Substring)] = []

  init(_ request: Request, known: Set<Substring>) throws(Complaint) {
    for (name, value) in request.uri.queryParameters {
      guard known.contains(name) else {
        throw Complaint(
          .usage, what: "there is no parameter \"\(name.prefix(40))\" here",
          advice: "the parameters are: \(known.sorted().joined(separator: ", "))")
      }
      values.append((name, value))
    }
  }

  func all(_ name: Substring) -> [Substring] { values.filter { $0.name == name }.map(\.value) }

  /// The known wrappers, and the patterns that `wrapper` names, once or several times.
  func wrappers() throws(Complaint) -> Wrappers {
    let patterns = all("wrapper").map { String($0) }
    return try Wrappers.standard.adding(patterns)
  }

  /// The level at which suballocations are shown; nil: as their process was started.
  func level() throws(Complaint) -> Level? {
    guard let value = all("level").last else { return nil }
    guard let level = Level(rawValue: String(value)) else {
      throw Complaint(.usage, what: "\"\(value.prefix(40))\" is no level", advice: "give block or chunk")
    }
    return level
  }

  /// The parameters of `selection`.
  static let ofProcesses: Set<Substring> = ["live", "sort"]

  /// Which processes are listed, and in which order.
  func selection() throws(Complaint) -> ProcessSelection {
    ProcessSelection(isLiveOnly: try flag("live") ?? false, order: try choice("sort", of: ProcessOrder.self))
  }

  /// The parameters of `scope`.
  static let ofScope: Set<Substring> = ofWindow.union(["level", "within", "wrapper"])

  /// The parameters of `window`.
  static let ofWindow: Set<Substring> = ["older", "since", "until", "younger"]

  /// Which live blocks the question is about.
  func scope() throws(Complaint) -> HeapScope {
    var scope = HeapScope(
      window: try window(), wrappers: try wrappers(), level: try level())
    if let value = all("within").last { scope.group = try GroupName(String(value)) }
    scope.countsMappings = try flag("mapped") ?? false
    return scope
  }

  /// When the blocks were made that are meant.
  private func window() throws(Complaint) -> TimeWindow {
    func bound(_ name: Substring, orAge ageName: Substring) throws(Complaint) -> Moment? {
      guard let value = all(ageName).last else { return try moment(name) }
      guard all(name).isEmpty else {
        throw Complaint(.usage, what: "\(name) and \(ageName) exclude each other", advice: "give one of them")
      }
      guard let seconds = Units.seconds(inTime: String(value)) else {
        throw Complaint(
          .usage, what: "\(ageName): \"\(ForeignText(String(value.prefix(40))))\" is no age",
          advice: "give 90s, 10m, 2h or 1d")
      }
      return .ago(seconds)
    }
    return try TimeWindow(since: try bound("since", orAge: "younger"), until: try bound("until", orAge: "older"))
      .checked(at: seconds(of: CLOCK_REALTIME))
  }

  private func moment(_ name: Substring) throws(Complaint) -> Moment? {
    try all(name).last.map { value throws(Complaint) in try moment(name, value) }
  }

  /// The moments that a parameter names, at most `limit`.
  func moments(_ name: Substring, limit: Int) throws(Complaint) -> [Moment] {
    let values = all(name)
    guard values.count <= limit else {
      throw Complaint(.usage, what: "\(name) is given \(values.count) times", advice: "give it at most \(limit) times")
    }
    return try values.map { value throws(Complaint) in try moment(name, value) }
  }

  private func moment(_ name: Substring, _ value: Substring) throws(Complaint) -> Moment {
    do throws(Complaint) {
      // The caller's clock may be of another time zone.
      return try Moment(String(value), now: seconds(of: CLOCK_REALTIME), hasClock: false)
    } catch {
      var error = error
      error.what = "\(name): \(error.what)"
      throw error
    }
  }

  func sizes() throws(Complaint) -> ClosedRange<UInt64> {
    func size(_ name: Substring) throws(Complaint) -> UInt64? {
      guard let value = all(name).last else { return nil }
      guard let size = UInt64(value) else {
        throw Complaint(.usage, what: "\"\(value.prefix(40))\" is no \(name)", advice: "give a number of bytes")
      }
      return size
    }
    let (least, most) = (try size("min-size") ?? 0, try size("max-size") ?? .max)
    guard least <= most else {
      throw Complaint(.usage, what: "min-size is greater than max-size", advice: "exchange them")
    }
    return least...max(least, most)
  }

  /// The addresses from `from` on and below `to`; nil if neither is given.
  func addresses() throws(Complaint) -> ClosedRange<UInt64>? {
    guard !all("from").isEmpty || !all("to").isEmpty else { return nil }
    let from = try all("from").last.map { text throws(Complaint) in try parseAddress(text) } ?? 0
    let to = try all("to").last.map { text throws(Complaint) in try parseAddress(text) } ?? .max
    guard from < to else {
      throw Complaint(
        .usage, what: "the range of addresses ends before it begins", advice: "give a `to` that is above `from`")
    }
    return from...max(from, to &- 1)
  }

  /// One of the words of a type.
  func choice<Choice: RawRepresentable<String> & CaseIterable>(
    _ name: Substring, of type: Choice.Type
  ) throws(Complaint) -> Choice? {
    guard let value = all(name).last else { return nil }
    guard let choice = Choice(rawValue: String(value)) else {
      throw Complaint(
        .usage, what: "\"\(value.prefix(40))\" is no \(name)",
        advice: "give \(Choice.allCases.map(\.rawValue).joined(separator: " or "))")
    }
    return choice
  }

  func policy() throws(Complaint) -> DeliveryPolicy {
    switch all("policy").last {
    case nil, "overwrite": return .overwrite
    case "lossless": return .lossless
    case let value?:
      throw Complaint(.usage, what: "\"\(value.prefix(40))\" is no policy", advice: "give overwrite or lossless")
    }
  }

  /// A length of time, in seconds.
  func length(_ name: Substring, in range: ClosedRange<Double>) throws(Complaint) -> Double? {
    guard let value = all(name).last else { return nil }
    guard let seconds = Units.seconds(inTime: String(value)), range.contains(seconds) else {
      throw Complaint(
        .usage, what: "\(name): \"\(ForeignText(String(value.prefix(40))))\" is no time that can be asked for",
        advice:
          "give 90s or 10m; from \(Units.duration(range.lowerBound)) to \(Units.duration(range.upperBound))"
      )
    }
    return seconds
  }

  func flag(_ name: Substring) throws(Complaint) -> Bool? {
    guard let value = all(name).last else { return nil }
    switch value {
    case "true", "1": return true
    case "false", "0": return false
    default:
      throw Complaint(.usage, what: "\"\(value.prefix(40))\" is no value of \(name)", advice: "give true or false")
    }
  }

  func number(_ name: Substring, in range: ClosedRange<Int>) throws(Complaint) -> Int? {
    guard let value = all(name).last else { return nil }
    guard let number = Int(value), range.contains(number) else {
      throw Complaint(
        .usage, what: "\"\(value.prefix(40))\" is no value of \(name)",
        advice: "give a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }
}
