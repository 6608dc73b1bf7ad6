// The request of the playground for a terminal and for a program.

import { base } from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(body) {
  return [
    `curl -N ${quoted(new URL("v1/chat/completions", base).href)} \\`,
    "  -H 'Content-Type: application/json' \\",
    `  -d ${quoted(JSON.stringify({ ...body, stream: true }, null, 2))}`,
  ].join("\n");
}

/** JSON's texts and numbers are Python's too. */
export function python({ model, messages, temperature, max_tokens: most }) {
  const lines = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(new URL("v1", base).href)}, api_key="none")`,
    "stream = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    "    messages=[",
    ...messages.map(({ role, content }) => `        {"role": ${JSON.stringify(role)}, "content": ${JSON.stringify(content)}},`),
    "    ],",
  ];
  if (temperature !== undefined) lines.push(`    temperature=${temperature},`);
  if (most !== undefined) lines.push(`    max_tokens=${most},`);
  lines.push("    stream=True,", ")", "for chunk in stream:", "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)', "print()");
  return lines.join("\n");
}
