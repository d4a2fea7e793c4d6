// What is done around every request: its metrics, its line in the log, and errors in their one form.

import HTTPTypes
import Hummingbird
import Logging
import Metrics

/// Counts and times requests by route and status, logs them, and turns Hummingbird's errors into `Problem`s.
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
    } catch let problem as Problem {
      response = problem.response
    } catch let error as HTTPError where error.status == .notFound {
      response =
        Problem(
          .notFound, "there is no resource for \(request.method) \(request.uri.path.prefix(200))",
          advice: "see docs/http.md for the resources; the first is /v1/processes"
        ).response
    } catch let error as HTTPError {
      response =
        Problem(
          error.status, error.body ?? "the request was not understood", advice: "see docs/http.md"
        ).response
    }
    if request.method == .head { response = response.createHeadResponse() }
    let duration = ContinuousClock.now - start
    // The route's pattern, not the path: a client must not be able to make new series.
    let route = context.endpointPath ?? "none"
    Counter(
      label: "allocsd_requests_total", dimensions: [("route", route), ("status", "\(response.status.code)")]
    ).increment()
    Timer(label: "allocsd_request_duration_seconds", dimensions: [("route", route)])
      .recordNanoseconds(duration.components.seconds * 1_000_000_000 + duration.components.attoseconds / 1_000_000_000)
    context.logger.debug(
      "request",
      metadata: [
        "method": "\(request.method)", "path": "\(request.uri.path)", "status": "\(response.status.code)",
        "uid": "\(context.caller.userID)", "pid": "\(context.caller.processID)",
      ])
    return response
  }
}
