// SPDX-License-Identifier: Apache-2.0
// How a request that can't be answered is answered: a status, and one JSON object with the reason and the remedy,
// `{"error":"<what> — <advice>"}` and a newline (docs/http.md).

import Answers
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore
import SystemAccess

extension Complaint {
  /// The status of a response that carries this complaint.
  var httpStatus: HTTPResponse.Status {
    switch kind {
    case .usage: .badRequest
    case .noSuchProcess, .noSuchGroup, .noTotals, .notIndexed: .notFound
    case .notPermitted: .forbidden
    case .budget:
      switch code {
      case ETIME: .gatewayTimeout
      case ENOMEM: .contentTooLarge
      // Nobody is there to get it; the figures have it apart from failures.
      case ECANCELED: .init(code: 499, reasonPhrase: "Client Closed Request")
      default: .serviceUnavailable
      }
    case .shortage: .serviceUnavailable
    case .halfWritten, .unreadable, .obstacle, .programNotFound, .programNotExecutable: .internalServerError
    }
  }

  /// The body of a response that carries this complaint.
  var httpBody: String { json + "\n" }
}

/// The error of a request that another worker must answer. Its connection is closed, and its client asks anew on
/// another connection, which the broker hands to the right worker.
struct Misdirected: Error {
  let complaint = Complaint(
    .obstacle, what: "this connection is served for the processes of another user", advice: "ask on a new connection")
}

/// The error of a comparison with a process that is not of the first one's owner, or not there at all: root alone asks
/// such a thing, whom each owner's worker answers.
struct OtherOwner: Error {
  var id: Int32

  var complaint: Complaint {
    Complaint(
      .obstacle, what: "process \(id) is no indexed process of the first process's owner",
      advice: "compare processes of one user, or snapshots")
  }
}

extension Response {
  /// `status`: nil for the status that goes with the complaint's kind.
  init(_ complaint: Complaint, status: HTTPResponse.Status? = nil) {
    self.init(
      status: status ?? complaint.httpStatus, headers: [.contentType: MediaKind.json.rawValue],
      body: ResponseBody(byteBuffer: ByteBuffer(string: complaint.httpBody)))
  }
}
