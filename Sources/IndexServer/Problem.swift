// How a request that can't be answered is answered: a status, and one JSON object with the reason and the remedy.

import Answers
import HTTPTypes
import Hummingbird
import NIOCore

/// An error with its HTTP status; its body is `{"error":"<what> — <what to do>"}` and a newline.
struct Problem: HTTPResponseError {
  let status: HTTPResponse.Status
  /// The body.
  let json: String

  init(_ status: HTTPResponse.Status, _ what: String, advice: String) {
    self.status = status
    json = AnswerError(.usage, what: what, advice: advice).json + "\n"
  }

  init(_ error: AnswerError) {
    status = .init(code: error.httpStatus)
    json = error.json + "\n"
  }

  var response: Response {
    Response(
      status: status, headers: [.contentType: MediaKind.json.rawValue],
      body: ResponseBody(byteBuffer: ByteBuffer(string: json)))
  }

  func response(from request: Request, context: some RequestContext) throws -> Response { response }
}

/// The forms in which answers are given.
enum MediaKind: String {
  case text = "text/plain; charset=utf-8"
  case json = "application/json"
  /// One object a line.
  case jsonLines = "application/x-ndjson"

  /// What the request asks for: text if `Accept` names text/plain with no lesser weight than JSON, else JSON.
  init(accepting request: Request) {
    var best: (kind: MediaKind, quality: Double)?
    for field in request.headers[values: .accept] {
      for range in field.split(separator: ",") {
        let parts = range.split(separator: ";").map { $0.drop { $0 == " " } }
        let kind: MediaKind
        switch parts.first?.lowercased().replacing(" ", with: "") {
        case "text/plain", "text/*": kind = .text
        case "application/x-ndjson": kind = .jsonLines
        case "application/json", "application/*", "*/*": kind = .json
        default: continue
        }
        let weight = parts.dropFirst().first { $0.hasPrefix("q=") }
        let quality = weight.map { Double($0.dropFirst(2)) ?? 0 } ?? 1
        if quality > 0, quality > (best?.quality ?? 0) { best = (kind, quality) }
      }
    }
    self = best?.kind ?? .json
  }
}
