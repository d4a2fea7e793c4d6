// Where answers come from: a server, or the segments themselves, mapped by this process. Both say the same, byte for
// byte.

import Answers
import Glibc
import NIOHTTP1
import Provenance
import ServerProtocol

/// How whoever asks wants to see allocations.
struct Perspective {
  /// Patterns of functions that are passed over in the search for allocation sites, beside the known ones.
  var wrappers: [String] = []
  /// nil: as the process was started.
  var level: Level?
}

/// Answers the questions of all commands. What it returns is what is printed.
protocol AnswerSource {
  func processes(json: Bool) throws(Failure) -> [UInt8]
  func summary(of pid: Int32, json: Bool) throws(Failure) -> [UInt8]
  func top(of pid: Int32, limit: Int, _ perspective: Perspective, json: Bool) throws(Failure) -> [UInt8]
  /// The answers to all addresses, in their order. Throws also where there is none, if the process can't be asked
  /// about.
  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Failure) -> [UInt8]
}

/// Maps the segments.
final class DirectSource: AnswerSource {
  /// Threads are stopped for a moment where that tells more.
  var stopsThreads = false
  /// A thread could not be stopped.
  private(set) var hasFailedToStop = false
  private var view: ProcessView?

  func processes(json: Bool) throws(Failure) -> [UInt8] {
    let list = try failing { () throws(AnswerError) in try ProcessList() }
    return Array((json ? list.json + "\n" : list.text).utf8)
  }

  func summary(of pid: Int32, json: Bool) throws(Failure) -> [UInt8] {
    let summary = try failing { () throws(AnswerError) in try view(of: pid).summary() }
    return Array((json ? summary.json + "\n" : summary.text).utf8)
  }

  func top(of pid: Int32, limit: Int, _ perspective: Perspective, json: Bool) throws(Failure) -> [UInt8] {
    let table = try failing { () throws(AnswerError) in
      try view(of: pid).top(
        limit: limit, wrappers: try Wrappers.standard.adding(perspective.wrappers), level: perspective.level)
    }
    return Array((json ? table.json + "\n" : table.text).utf8)
  }

  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Failure) -> [UInt8] {
    try failing { () throws(AnswerError) in
      let view = try view(of: pid)
      var list = AnswerList(form: form, capacity: addresses.count * 256)
      var inquiry = Inquiry(
        view, wrappers: try Wrappers.standard.adding(perspective.wrappers), level: perspective.level,
        stopsThreads: stopsThreads)
      for address in addresses { list.append(address, from: &inquiry, stacks: stacks) }
      try view.checkIntact()
      if inquiry.hasFailedToStop { hasFailedToStop = true }
      return list.take()
    }
  }

  /// A command asks about one process; the segment stays open between its pieces as long as it is the right one.
  private func view(of pid: Int32) throws(AnswerError) -> ProcessView {
    if let view, view.processID == pid, view.isProcessAlive { return view }
    let view = try ProcessView(pid: pid)
    self.view = view
    return view
  }
}

/// Asks a server.
final class ServerSource: AnswerSource {
  private let connection: ServerConnection

  init(_ connection: ServerConnection) { self.connection = connection }

  func processes(json: Bool) throws(Failure) -> [UInt8] { try get("/v1/processes", json: json) }

  func summary(of pid: Int32, json: Bool) throws(Failure) -> [UInt8] { try get("/v1/processes/\(pid)", json: json) }

  func top(of pid: Int32, limit: Int, _ perspective: Perspective, json: Bool) throws(Failure) -> [UInt8] {
    try get("/v1/processes/\(pid)/top?limit=\(limit)\(Self.parameters(perspective))", json: json)
  }

  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Failure) -> [UInt8] {
    var list = ByteWriter(capacity: addresses.count * 16)
    for address in addresses {
      list.append(address: address)
      list.append("\n")
    }
    let accept = form == .text ? "text/plain" : "application/x-ndjson"
    return try send(
      .POST, "/v1/processes/\(pid)/query?stacks=\(stacks)\(Self.parameters(perspective))", accept, list.take())
  }

  /// Prints a process's events as they come, until its end or the interruption.
  func events(
    of pid: Int32, parameters: [(name: String, value: String)], wrappers: [String], json: Bool,
    _ interruption: Interruption
  ) throws(Failure) {
    let query = Self.parameters(parameters + wrappers.map { ("wrapper", $0) }).dropFirst()
    let connection = connection
    interruption.onInterruption { connection.close() }
    let response = try connection.receive(
      "/v1/processes/\(pid)/events?\(query)", accept: json ? "application/x-ndjson" : "text/plain")
    if response.status != 200 { throw failure(response) }
  }

  private static func parameters(_ perspective: Perspective) -> String {
    parameters(
      perspective.wrappers.map { ("wrapper", $0) } + (perspective.level.map { [("level", $0.rawValue)] } ?? []))
  }

  /// `&name=value` for each, all of a value but letters and digits as %XX.
  private static func parameters(_ parameters: [(name: String, value: String)]) -> String {
    var text = ""
    for (name, value) in parameters {
      text += "&\(name)="
      for byte in value.utf8 {
        let isPlain = byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26
        text += isPlain ? String(UnicodeScalar(byte)) : "%\(byte < 16 ? "0" : "")\(String(byte, radix: 16))"
      }
    }
    return text
  }

  private func get(_ uri: String, json: Bool) throws(Failure) -> [UInt8] {
    try send(.GET, uri, json ? "application/json" : "text/plain", [])
  }

  private func send(_ method: HTTPMethod, _ uri: String, _ accept: String, _ body: [UInt8]) throws(Failure) -> [UInt8] {
    let response = try connection.send(method, uri, accept: accept, body: body)
    if response.status == 200 { return response.body }
    throw failure(response)
  }

  private func failure(_ response: ServerConnection.Response) -> Failure {
    let text = String(decoding: response.body, as: UTF8.self)
    return Failure(
      status: response.status == 400 ? Status.usage : Status.notAnswered,
      message: ErrorBody.message(text)
        ?? "the server answered with status \(response.status) — see its log, or use --direct")
  }
}
