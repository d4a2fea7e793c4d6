// SPDX-License-Identifier: Apache-2.0
// The files of the page and the description of the API (Sources/Page), as every worker serves them to everybody: they
// say nothing of any process. The page may load and ask nothing but this server, and no other page may show it.

import HTTPTypes
import Hummingbird
import NIOCore
import Page

enum PageResponse {
  private static let policy = """
    default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'
    """

  static func addRoutes(to router: Router<CallerContext>) {
    for file in PageFile.all {
      let response = response(file)
      router.get(RouterPath(file.path)) { _, _ in response }
    }
  }

  private static func response(_ file: PageFile) -> Response {
    var headers: HTTPFields = [
      .contentType: file.mediaType, .contentSecurityPolicy: policy, .xContentTypeOptions: "nosniff",
      // An upgraded server's page asks for what that server has.
      .cacheControl: "no-cache",
    ]
    for (name, value) in [("Referrer-Policy", "no-referrer"), ("Cross-Origin-Resource-Policy", "same-origin")] {
      if let name = HTTPField.Name(name) { headers[name] = value }
    }
    return Response(status: .ok, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(bytes: file.bytes)))
  }
}
