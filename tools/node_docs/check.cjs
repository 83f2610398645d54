// Read diagrams from standard input, a JSON array of texts, and say what is wrong with each.
// The library wants a browser's names while it loads. Parsing needs nothing of them but a document and an element, without
// which the library's sanitizer has no hooks; it then finds no browser, and leaves texts as they are.
const { readFileSync } = require('node:fs')
const { runInThisContext } = require('node:vm')

globalThis.window = globalThis
globalThis.Element = class {}
globalThis.document = {
  nodeType: 9, implementation: {}, addEventListener() {}, createElement: () => ({}), querySelectorAll: () => [],
}
globalThis.addEventListener = () => {}
runInThisContext(readFileSync(process.argv[2], 'utf8'))

const problem = (text) => globalThis.mermaid.parse(text).then(() => null, (error) => String(error.message))
Promise.all(JSON.parse(readFileSync(0, 'utf8')).map(problem)).then((problems) => console.log(JSON.stringify(problems)))
