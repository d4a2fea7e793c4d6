// SPDX-License-Identifier: Apache-2.0
// What a connection is told that is not served, before anything has been asked.

import ByteText

/// A whole answer that says why a connection is refused (docs/http.md).
package struct Refusal {
  var status: Int
  var what: String
  var advice: String

  package init(status: Int, what: String, advice: String) {
    (self.status, self.what, self.advice) = (status, what, advice)
  }

  private static let reasons = [
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 421: "Misdirected Request",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
  ]
  /// The field that goes with a status; where none stands here, whoever asks may ask again soon.
  private static let fields = [
    400: "Cache-Control: no-store", 401: "WWW-Authenticate: Bearer", 403: "Cache-Control: no-store",
    404: "Cache-Control: no-store", 421: "Cache-Control: no-store", 431: "Cache-Control: no-store",
  ]

  package var bytes: [UInt8] {
    let reason = Self.reasons[status] ?? "Service Unavailable"
    let text = (advice.isEmpty ? what : "\(what) — \(advice)").unicodeScalars.map { scalar in
      scalar == "\"" || scalar == "\\" ? "\\\(scalar)" : scalar.isInert ? "\(scalar)" : " "
    }.joined()
    let body = "{\"error\":\"\(text)\"}\n"
    return Array(
      """
      HTTP/1.1 \(status) \(reason)\r
      Content-Type: application/json\r
      Content-Length: \(body.utf8.count)\r
      \(Self.fields[status] ?? "Retry-After: 1")\r
      Connection: close\r
      \r
      \(body)
      """.utf8)
  }

  // Made once: whoever connects without pause must not fill the queue faster than it is emptied.
  package static let tooFast = Refusal(
    status: 429, what: "you open connections too fast", advice: "keep one open, or try again in a second"
  ).bytes
  package static let noRoom = Refusal(
    status: 503, what: "the server has no room for another connection of yours",
    advice: "close some, or try again later"
  ).bytes
}
