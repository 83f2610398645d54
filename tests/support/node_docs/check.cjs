// Read diagrams from standard input, a JSON array of texts, and say what is wrong with each.
// The library wants a browser's names while it loads; parsing needs nothing of them.
const { readFileSync } = require('node:fs')
const { runInThisContext } = require('node:vm')

globalThis.window = globalThis
globalThis.document = { addEventListener() {}, createElement: () => ({}), querySelectorAll: () => [] }
globalThis.addEventListener = () => {}
runInThisContext(readFileSync(process.argv[2], 'utf8'))

const problem = (text) => globalThis.mermaid.parse(text).then(() => null, (error) => String(error.message))
Promise.all(JSON.parse(readFileSync(0, 'utf8')).map(problem)).then((problems) => console.log(JSON.stringify(problems)))
