// Pictures open in a dialog, at the width of the window or more.

const large = document.getElementById("large");

for (const button of document.querySelectorAll(".enlarge")) {
  const small = button.querySelector("img");
  button.addEventListener("click", () => {
    const image = large.querySelector("img");
    image.src = small.src;
    image.alt = small.alt;
    large.querySelector("p").textContent = button.closest("figure").querySelector("figcaption").textContent;
    large.showModal();
  });
}

// A click beside the dialog closes it, as Escape does.
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
