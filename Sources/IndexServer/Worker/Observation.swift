// SPDX-License-Identifier: Apache-2.0
// The work around every request: its metrics, its line in the log, and errors in one form.

import HTTPTypes
import Hummingbird
import Logging
import SystemAccess

/// Counts and times requests by route and status, logs them, and turns all errors into responses of the one form.
struct Observation: MiddlewareProtocol {
  typealias Input = Request
  typealias Output = Response
  typealias Context = CallerContext

  func handle(
    _ request: Request, context: CallerContext, next: (Request, CallerContext) async throws -> Response
  ) async throws -> Response {
    let start = ContinuousClock.now
    var response: Response
    do {
      response = try await next(request, context)
    } catch let complaint as Complaint {
      response = Response(complaint)
    } catch let error as Misdirected {
      response = Response(error.complaint, status: .misdirectedRequest)
    } catch let error as OtherOwner {
      response = Response(error.complaint, status: .conflict)
    } catch let error as HTTPError where error.status == .notFound {
      response = Response(
        Complaint(
          .usage, what: "there is no resource for \(request.method) \(request.uri.path.prefix(200))",
          advice: "see docs/http.md for the resources; the first is /v1/processes"), status: .notFound)
    } catch let error as HTTPError {
      response = Response(
        Complaint(.usage, what: error.body ?? "the request was not understood", advice: "see docs/http.md"),
        status: error.status)
    }
    if request.method == .head { response = response.createHeadResponse() }
    let duration = start.duration(to: .now)
    // The label is the route's pattern and not the path: a client must not be able to make new series.
    let route = context.endpointPath ?? "none"
    Metric.Count.requests.increment(route, "\(response.status.code)")
    Metric.Time.requestDuration.record(duration, route)
    context.logger.debug(
      "request",
      metadata: [
        "method": "\(request.method)", "path": "\(request.uri.path)", "status": "\(response.status.code)",
        "uid": "\(context.caller.userID)", "pid": "\(context.caller.processID)",
      ])
    return response
  }
}
