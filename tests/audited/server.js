// A server on a hard-coded port, and one where the kernel chooses; it ends when both listen.
const http = require("http");

const fixed = http.createServer().listen(18100, "127.0.0.1", () => {
  const any = http.createServer().listen(0, "127.0.0.1", () => {
    console.log(any.address().port);
    any.close();
    fixed.close();
  });
});
