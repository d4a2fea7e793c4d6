// SPDX-License-Identifier: Apache-2.0
// Answers root's questions about all users, by asking the workers of all of them: over connections that the broker
// makes, at once, with a deadline. A worker that fails or is late is told of in its place, and never fails the answer.
// The gatherer runs as a user that no account has, and holds nothing but what the workers say.

import Answers
import Bounds
import Broker
import ByteText
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore
import NIOPosix
import SystemAccess

struct Gatherer: Sendable {
  let link: BrokerLink
  let metrics: PrometheusMetrics

  /// Seconds for all workers together: some of them may have to be started, others may be kept by their users.
  private static func patience(users: Int) -> Double { min(8, 2 + 0.1 * Double(users)) }

  func responder() -> some HTTPResponder<CallerContext> {
    let router = Router(context: CallerContext.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: Observation())
    router.get("/v1/processes", use: processes)
    router.get("/metrics", use: figures)
    // All of these are about one process, and so for the worker of its user.
    for resource in ["", "/query", "/top", "/memory", "/tree", "/blocks", "/map", "/marks", "/profile", "/events"] {
      router.get("/v1/processes/{pid}\(resource)", use: misdirected)
    }
    router.post("/v1/processes/{pid}/query", use: misdirected)
    PageResponse.addRoutes(to: router)
    return router.buildResponder()
  }

  @Sendable private func misdirected(_ request: Request, _ context: CallerContext) throws -> Response {
    _ = try ProcessName(context)
    throw Misdirected()
  }

  @Sendable private func processes(_ request: Request, _ context: CallerContext) async throws -> Response {
    let selection = try Parameters(request, known: Parameters.ofProcesses).selection()
    var rows: [IndexedProcess] = []
    var omitted = 0
    // The workers count bytes only if the order needs them.
    let path = "/v1/processes?live=\(selection.isLiveOnly)" + (selection.order.map { "&sort=\($0)" } ?? "")
    for (user, answer) in await answers(to: path, of: try await users().map(\.id)) {
      let problem: ForeignText
      switch answer {
      case .failure(let complaint): problem = ForeignText(complaint.description)
      case .success(let bytes):
        if let list = ProcessRows.decode(bytes, of: user) {
          rows += list.processes
          omitted = min(omitted &+ list.omitted, ProcessRows.mostOmitted)
          continue
        }
        problem = "the worker of user \(user) gave no list of processes"
      }
      rows.append(
        IndexedProcess(
          processID: 0, state: .unreadable, userID: user, command: [], startTime: 0, started: nil, segmentBytes: 0,
          path: "", lostBlocks: nil, problem: problem))
    }
    rows.sort { ($0.processID, $0.startTime, $0.path) < ($1.processID, $1.startTime, $1.path) }
    // What a worker that failed has is not known to be live or not.
    var list = ProcessList(rows, omitted: omitted, selection)
    if selection.isLiveOnly { list.processes.append(contentsOf: rows.filter { $0.processID == 0 }) }
    let kind = MediaKind(accepting: request)
    let text = TextLayout.withLines(of: request.columns) { kind == .text ? list.text : "\(list.json)\n" }
    return Response(
      status: .ok, headers: [.contentType: kind.rawValue],
      body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
  }

  /// The broker's figures, the gatherer's own, and the sums of those of the workers that run.
  @Sendable private func figures(_ request: Request, _ context: CallerContext) async throws -> Response {
    var sum = MetricSum()
    sum.add(metrics.exposition())
    for (_, answer) in await answers(to: "/metrics", of: try await users().filter(\.isRunning).map(\.id)) {
      if case .success(let bytes) = answer { sum.add(String(decoding: bytes, as: UTF8.self)) }
    }
    sum.add(brokerFigures: try await link.ask(.askFigures).message.words)
    return Response.figures(sum.text)
  }

  /// The users that have segments or a worker.
  private func users() async throws -> [(id: UInt32, isRunning: Bool)] {
    var users: [(id: UInt32, isRunning: Bool)] = []
    while true {
      let message = try await link.ask(.askUsers, value: UInt64(users.count)).message
      let page = message.words
      users.append(contentsOf: page.map { (UInt32(truncatingIfNeeded: $0), $0 >> 32 != 0) })
      guard !page.isEmpty, users.count < message.value else { return users }
    }
  }

  // MARK: asking workers

  private typealias Answers = [(user: UInt32, answer: Result<[UInt8], Complaint>)]

  /// The bodies of the workers' answers to a request, in the order of `users`.
  private func answers(to path: String, of users: [UInt32]) async -> Answers {
    let patience = Self.patience(users: users.count)
    let deadline = seconds(of: CLOCK_MONOTONIC) + patience  // bounded: seconds in floating point
    var answers: Answers = []
    var exchanges: [(index: Int, exchange: Exchange)] = []
    for user in users {
      do {
        let answer = try await link.ask(.askLink, value: UInt64(truncatingIfNeeded: user))
        guard let descriptor = answer.descriptor else {
          throw Complaint(.obstacle, what: String(decoding: answer.message.text, as: UTF8.self))
        }
        exchanges.append((answers.count, Exchange(descriptor, path, of: user)))
        answers.append((user, .success([])))
      } catch {
        answers.append((user, .failure(error as? Complaint ?? Complaint(.obstacle, what: "\(error)"))))
      }
    }
    let pending = exchanges
    let results = try? await NIOThreadPool.singleton.runIfActive { () -> [(Int, Result<[UInt8], Complaint>)] in
      Exchange.run(pending.map(\.exchange), until: deadline)
      return pending.map { ($0.index, $0.exchange.result) }
    }
    for (index, result) in results ?? [] { answers[index].answer = result }
    return answers
  }
}

/// One request to a worker, by plain system calls.
private final class Exchange: @unchecked Sendable {
  private let socket: Descriptor
  private let user: UInt32
  private var received: [UInt8] = []
  private var isAtEnd = false
  private var failure: Complaint?

  init(_ descriptor: Int32, _ path: String, of user: UInt32) {
    socket = Descriptor(adopting: descriptor)
    self.user = user
    let request = Array(
      "GET \(path) HTTP/1.1\r\nHost: localhost\r\nAccept: \(ProcessRows.mediaType)\r\nConnection: close\r\n\r\n".utf8)
    // The request is shorter than the room of a new socket.
    let sent = send(
      descriptor, request, request.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
    if sent != request.count { fail("can't be asked: \(systemWords(errno))") }
  }

  private func fail(_ why: String) {
    if failure == nil { failure = Complaint(.obstacle, what: "the worker of user \(user) \(why)") }
    isAtEnd = true
  }

  /// Bytes of all answers together: what is made of them takes several times as much, of the gatherer's 512 MiB.
  private static let roomOfAll = 64 << 20

  /// Receives the answers of all until each is at its end, or until the time `deadline`. Where they are too much
  /// together, the longest is given up: users with a usual number of processes keep theirs.
  static func run(_ exchanges: [Exchange], until deadline: Double) {
    while true {
      let open = exchanges.filter { !$0.isAtEnd }
      let rest = deadline - seconds(of: CLOCK_MONOTONIC)  // bounded: seconds in floating point
      guard !open.isEmpty, rest > 0 else { break }
      var requests = open.map { pollfd(fd: $0.socket.number, events: Int16(POLLIN), revents: 0) }
      poll(&requests, nfds_t(requests.count), Foreign<Int32>(wholePartOf: rest * 1000.0 + 1.0).saturated())
      for (request, exchange) in zip(requests, open) where request.revents != 0 {
        exchange.receive()
        guard exchanges.reduce(0, { $0 &+ $1.received.count }) > roomOfAll,
          let longest = exchanges.max(by: { $0.received.count < $1.received.count })
        else { continue }
        longest.fail("tells more than there is room for beside the others'")
        longest.received = []
      }
    }
    for exchange in exchanges where !exchange.isAtEnd { exchange.fail("has not answered in time") }
  }

  private func receive() {
    var piece = [UInt8](repeating: 0, count: 64 << 10)
    let count = recv(socket.number, &piece, piece.count, Int32(MSG_DONTWAIT))
    if count < 0, errno == EAGAIN || errno == EINTR { return }
    guard count >= 0 else { return fail("broke off its answer: \(systemWords(errno))") }
    if count == 0 { isAtEnd = true }
    received += piece[..<count]
    if received.count &- 4096 > ProcessRows.sizeLimit { fail("answers without end") }
  }

  /// The body of the answer.
  var result: Result<[UInt8], Complaint> {
    if let failure { return .failure(failure) }
    let separator = Array("\r\n\r\n".utf8)
    guard let head = received.firstRange(of: separator) else {
      fail("broke off its answer")
      return .failure(failure ?? Complaint(.obstacle, what: "no answer"))
    }
    let lines = String(decoding: received[..<head.lowerBound], as: UTF8.self).lowercased().split(separator: "\r\n")
    let body = received[head.upperBound...]
    let length = lines.first { $0.hasPrefix("content-length:") }
      .flatMap { Int($0.dropFirst(15).drop { $0 == " " }, radix: 10) }
    guard let status = lines.first?.split(separator: " ").dropFirst().first, status == "200", length == body.count
    else {
      fail("gave no whole answer")
      return .failure(failure ?? Complaint(.obstacle, what: "no answer"))
    }
    return .success(Array(body))
  }
}
