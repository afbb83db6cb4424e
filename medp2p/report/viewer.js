"use strict";
// What a reader does (viewer_input, and the buttons of viewer_controls) changes a CaseState
// (viewer_state); the state then asks for one drawing in the next frame: of the images
// (viewer_drawing, with the voxels, windows and planes) and of the words (viewer_controls).
(() => {
const viewer = document.querySelector(".viewer");
if (!viewer) return;

{% include "viewer_voxels.js" %}
{% include "viewer_contrast.js" %}
{% include "viewer_planes.js" %}
{% include "viewer_state.js" %}
{% include "viewer_drawing.js" %}
{% include "viewer_controls.js" %}
{% include "viewer_input.js" %}
{% include "viewer_cases.js" %}
})();
