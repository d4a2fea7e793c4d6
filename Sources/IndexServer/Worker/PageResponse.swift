// SPDX-License-Identifier: Apache-2.0
// The files of the page and the description of the API (Sources/Page), as every worker serves them to everybody: they
// say nothing of any process.

import HTTPTypes
import Hummingbird
import NIOCore
import Page

enum PageResponse {
  static func addRoutes(to router: Router<CallerContext>) {
    for file in PageFile.all {
      let response = response(file)
      router.get(RouterPath(file.path)) { _, _ in response }
    }
  }

  private static func response(_ file: PageFile) -> Response {
    var headers = HTTPFields()
    for (name, value) in file.fields {
      if let name = HTTPField.Name(name) { headers[name] = value }
    }
    return Response(status: .ok, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(bytes: file.bytes)))
  }
}
