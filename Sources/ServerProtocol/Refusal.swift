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

  package var bytes: [UInt8] {
    let reason = status == 429 ? "Too Many Requests" : "Service Unavailable"
    let text = (advice.isEmpty ? what : "\(what) — \(advice)").unicodeScalars.map { scalar in
      scalar == "\"" || scalar == "\\" ? "\\\(scalar)" : scalar.isInert ? "\(scalar)" : " "
    }.joined()
    let body = "{\"error\":\"\(text)\"}\n"
    return Array(
      """
      HTTP/1.1 \(status) \(reason)\r
      Content-Type: application/json\r
      Content-Length: \(body.utf8.count)\r
      Retry-After: 1\r
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
