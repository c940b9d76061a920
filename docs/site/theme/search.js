// Every word must be found; titles count most. The index is that of mkdocs, as a script: pages, and their parts.
const asked = document.querySelector("[type=search]"), results = document.getElementById("results");
const page = ({ location }) => location.split("#")[0], isPart = ({ location }) => location.includes("#");
const titles = new Map(FOUND_IN.docs.filter((one) => !isPart(one)).map((one) => [page(one), one.title]));
const parts = FOUND_IN.docs.filter(isPart).map((part) => {
  const whole = titles.get(page(part));
  return { ...part, title: whole === part.title ? whole : `${whole}: ${part.title}` };
});

function score({ title, text }, words) {
  const places = words.map((word) => {
    const inTitle = title.toLowerCase().includes(word) ? 10 : 0;
    return inTitle + Math.min(text.toLowerCase().split(word).length - 1, 5);
  });
  return places.every(Boolean) ? places.reduce((sum, one) => sum + one) : 0;
}

function around(text, word) {
  const at = Math.max(0, text.toLowerCase().indexOf(word) - 60);
  return (at ? "… " : "") + text.slice(at, at + 200).trim() + " …";
}

function show() {
  const words = asked.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return;
  const scored = parts.map((part) => [score(part, words), part]).filter(([points]) => points);
  scored.sort(([one], [other]) => other - one);
  results.replaceChildren(...scored.slice(0, 30).map(([, part]) => {
    const article = document.createElement("article"), link = document.createElement("a"), said = document.createElement("p");
    link.href = part.location;
    link.textContent = part.title;
    said.textContent = around(part.text, words[0]);
    article.append(link, said);
    return article;
  }));
  if (!scored.length) results.textContent = "Nothing found.";
}

asked.value = new URLSearchParams(location.search).get("q") ?? "";
asked.addEventListener("input", show);
show();
