// matrix-js-sdk logs to the console; stdout is for the conversation's steps.

const write = (...words) => process.stderr.write(`${words.join(' ')}\n`);
for (const level of ['trace', 'debug', 'log', 'info', 'warn', 'error']) console[level] = write;
